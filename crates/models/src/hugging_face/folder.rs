//! Reading a model folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Kind, Tensor};
use serde_json::Value;

use super::files::{read_json, read_weights};
use super::{Architecture, ModelType, PretrainedConfig, heads};
use crate::error::{Error, Result};

/// A model folder: its configuration and weights, on the CPU.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    config: Value,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

/// What [`Folder::load`] did beside setting parameters.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Parameters that the folder does not have and that keep their start.
    pub fresh: Vec<String>,
    /// The folder's tensors that the model has no use for, such as another head.
    pub unused: Vec<String>,
}

impl Folder {
    /// Reads `config.json`, and `model.safetensors` or the shards that
    /// `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// Files that are missing, cut short or not what their names promise; weights as pickles,
    /// which run whatever code is in them when read.
    pub fn open(path: &Path) -> Result<Self> {
        let config = read_json(&path.join("config.json"))?;
        let tensors = read_weights(path)?;
        Ok(Self { path: path.to_owned(), config, tensors })
    }

    /// The class of transformers that the folder was written by. Where `config.json` names none,
    /// as in early BERTs, it is the family's class with the head whose weights are there.
    ///
    /// # Errors
    /// A class that we don't have.
    pub fn architecture(&self) -> Result<Architecture> {
        let named = &self.config["architectures"][0];
        let known = match named {
            Value::Null => {
                let family = self.model_type()?;
                family.map(|model_type| heads::present(model_type, &self.tensors))
            }
            named => named.as_str().and_then(Architecture::named),
        };
        if let (Some(known), Some(family)) = (known, self.model_type()?)
            && known.model_type() != family
        {
            let family = family.name();
            let reason = format!("architectures is {named}, but model_type is {family:?}");
            return Err(self.bad_config(reason));
        }
        known.ok_or_else(|| {
            let known: Vec<_> = Architecture::all().map(|known| known.to_string()).collect();
            let (model_type, known) = (&self.config["model_type"], known.join(", "));
            let reason = format!(
                "architectures is {named}, and model_type is {model_type}; bert4rs has {known}"
            );
            self.bad_config(reason)
        })
    }

    /// [`architecture`](Self::architecture); of a class that we don't have, but whose family we
    /// have, the family's class without a head, which gives the same hidden states.
    ///
    /// # Errors
    /// A family that we don't have.
    pub fn encoder_architecture(&self) -> Result<Architecture> {
        self.architecture().or_else(|error| match self.model_type()? {
            Some(model_type) => Ok(Architecture::without_head(model_type)),
            None => Err(error),
        })
    }

    /// The family: what `model_type` says or, in the first BERTs, the class or the weights' names.
    ///
    /// # Errors
    /// A `model_type` that is no text.
    pub fn model_type(&self) -> Result<Option<ModelType>> {
        match &self.config["model_type"] {
            Value::Null => {
                let named = self.config["architectures"][0].as_str().and_then(Architecture::named);
                let family = named.map(Architecture::model_type);
                Ok(family.or_else(|| heads::family(&self.tensors)))
            }
            Value::String(name) => Ok(ModelType::named(name)),
            other => Err(self.bad_config(format!("model_type: {other} is no text"))),
        }
    }

    /// `config.json` as written, for keys that only a program needs, such as `id2label`.
    pub fn raw_config(&self) -> &Value {
        &self.config
    }

    /// Gives `config.json` another value for `key`, in memory alone; `null` takes the key out.
    pub fn set(&mut self, key: &str, value: Value) {
        if let Some(config) = self.config.as_object_mut() {
            match value {
                Value::Null => drop(config.remove(key)),
                value => drop(config.insert(key.to_owned(), value)),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's tensors by name, as stored.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The family's configuration, validated.
    ///
    /// # Errors
    /// Another family; values that are of a wrong type, that no model can have, or that ask for
    /// something that we don't compute; more blocks than the weights have.
    pub fn config<C: PretrainedConfig>(&self) -> Result<C> {
        let model_type = self.model_type()?;
        let Some(model_type) = model_type.filter(|found| C::MODEL_TYPES.contains(found)) else {
            let expected: Vec<_> = C::MODEL_TYPES.iter().map(|known| known.name()).collect();
            let found = match &self.config["model_type"] {
                Value::Null => "model_type is missing".to_owned(),
                found => format!("model_type is {found}"),
            };
            return Err(self.bad_config(format!("{found}, expected {}", expected.join(", "))));
        };
        let mut config =
            C::from_json(model_type, &self.config).map_err(|reason| self.bad_config(reason))?;
        config.settle(&self.tensors);
        self.check_fixed(&config.fixed())?;
        config.validate()?;
        self.check_stacks(&config)?;
        Ok(config)
    }

    /// Refuses more blocks than there are weights for, before any is made.
    fn check_stacks<C: PretrainedConfig>(&self, config: &C) -> Result<()> {
        for (key, wanted, prefix) in config.stacks() {
            let short = prefix.strip_prefix(&config.base()).unwrap_or(&prefix);
            let number = |name: &String| -> Option<i64> {
                let rest = name.strip_prefix(&prefix).or(name.strip_prefix(short))?;
                rest.split('.').next()?.parse().ok()
            };
            let found = self.tensors.keys().filter_map(number).max().map_or(0, |last| last + 1);
            if found > 0 && wanted > found {
                let reason = format!("{key} = {wanted}, but the weights have {found} blocks");
                return Err(self.bad_config(reason));
            }
        }
        Ok(())
    }

    /// Refuses weights that are not those of `store`'s parameters, which may have no memory: see
    /// [`ParamStore::meta`].
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn check<C: PretrainedConfig>(&self, config: &C, store: &ParamStore) -> Result<()> {
        self.check_under(config, store, &|_| false, &|_| false)
    }

    /// [`check`](Self::check) of what [`load_under`](Self::load_under) loads.
    pub(crate) fn check_under<C: PretrainedConfig>(
        &self,
        config: &C,
        store: &ParamStore,
        may_be_fresh: &dyn Fn(&str) -> bool,
        replaced: &dyn Fn(&str) -> bool,
    ) -> Result<()> {
        self.matched(config, store, may_be_fresh, replaced).map(drop)
    }

    /// Sets every parameter of `store` to the tensor of its name, under any name that the family
    /// has had for it.
    ///
    /// Parameters whose name begins with one of `may_be_fresh` keep their start where the folder
    /// has no tensor for them that fits: new heads on an old encoder.
    ///
    /// # Errors
    /// One error that lists all parameters that are missing, or of another shape or dtype, and
    /// copies of tied weights that differ from them. Nothing is set then.
    pub fn load<C: PretrainedConfig>(
        &self,
        config: &C,
        store: &mut ParamStore,
        may_be_fresh: &[&str],
    ) -> Result<Loaded> {
        let may = |name: &str| may_be_fresh.iter().any(|start| name.starts_with(start));
        self.load_under(config, store, &may, &|_| false)
    }

    /// [`load`](Self::load), where functions say which parameters may keep their start, and which
    /// do so even if the folder has them.
    pub(crate) fn load_under<C: PretrainedConfig>(
        &self,
        config: &C,
        store: &mut ParamStore,
        may_be_fresh: &dyn Fn(&str) -> bool,
        replaced: &dyn Fn(&str) -> bool,
    ) -> Result<Loaded> {
        let Matched { values, loaded } = self.matched(config, store, may_be_fresh, replaced)?;
        let (fresh, unused) = (loaded.fresh.len(), loaded.unused.len());
        let folder = self.path.display();
        tracing::debug!(%folder, tensors = values.len(), fresh, unused, "loading weights");
        tracing::trace!(fresh = ?loaded.fresh, unused = ?loaded.unused, "parameters and tensors");
        for (param, value) in store.params_mut().iter_mut().zip(values) {
            if let Some(value) = value {
                param.set(&value)?;
            }
        }
        Ok(loaded)
    }

    /// The value of each parameter, where there is one.
    fn matched<C: PretrainedConfig>(
        &self,
        config: &C,
        store: &ParamStore,
        may_be_fresh: &dyn Fn(&str) -> bool,
        replaced: &dyn Fn(&str) -> bool,
    ) -> Result<Matched> {
        let tied = config.tied();
        let mut known: BTreeSet<String> =
            tied.iter().flat_map(|[output, _]| names_of(config, output)).collect();
        let (mut fresh, mut wrong, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for param in store.params().iter() {
            let mut names = names_of(config, &param.name);
            if let Some([output, table]) = &tied
                && names_of(config, table).contains(&param.name)
            {
                names.extend(names_of(config, output));
            }
            let found = names.iter().find_map(|name| self.tensors.get(name));
            known.extend(names);
            let value = found.map(|stored| as_held(config, &param.name, stored));
            let misfit = match &value {
                Some(value) => misfit(&param.name, value, &param.weight.size()),
                None => Some(format!("{} is missing", param.name)),
            };
            let is_fresh = match misfit {
                _ if replaced(&param.name) => true,
                Some(_) if may_be_fresh(&param.name) => true,
                misfit => {
                    wrong.extend(misfit);
                    false
                }
            };
            if is_fresh {
                fresh.push(param.name.clone());
            }
            values.push(value.filter(|_| !is_fresh));
        }
        wrong.extend(self.differing_copy(config));
        if !wrong.is_empty() {
            return Err(Error::Weights { path: self.path.clone(), wrong });
        }
        let is_unused = |name: &&String| !known.contains(*name) && !config.is_buffer(name);
        let unused = self.tensors.keys().filter(is_unused).cloned().collect();
        Ok(Matched { values, loaded: Loaded { fresh, unused } })
    }

    /// A copy of a tied weight that is no copy.
    fn differing_copy<C: PretrainedConfig>(&self, config: &C) -> Option<String> {
        let [output, table] = config.tied()?;
        let stored = |name: &str| {
            let names = names_of(config, name);
            names.into_iter().find(|name| self.tensors.contains_key(name))
        };
        let (output, table) = (stored(&output)?, stored(&table)?);
        let reason = "bert4rs ties them: set tie_word_embeddings and save the model tied";
        (self.tensors[&output] != self.tensors[&table])
            .then(|| format!("{output} differs from {table}, but {reason}"))
    }

    /// Refuses keys that ask for what we don't compute.
    fn check_fixed(&self, fixed: &Value) -> Result<()> {
        let fixed = fixed.as_object().into_iter().flatten();
        for (key, expected) in fixed {
            match self.config.get(key) {
                Some(found) if !is_same(found, expected) && !found.is_null() => {
                    let reason = format!("{key} = {found}: bert4rs computes {expected} only");
                    return Err(self.bad_config(reason));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn bad_config(&self, reason: String) -> Error {
        Error::File { path: self.path.join("config.json"), reason }
    }
}

/// Equal values; numbers may be written with a fraction or without.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

/// What a folder has for a store.
struct Matched {
    /// A value for each parameter, in their order; absent for fresh ones.
    values: Vec<Option<Tensor>>,
    loaded: Loaded,
}

/// What is wrong with a parameter's value.
fn misfit(name: &str, value: &Tensor, expected: &[i64]) -> Option<String> {
    let (found, kind) = (value.size(), value.kind());
    if found != expected {
        return Some(format!("{name} has shape {found:?}, expected {expected:?}"));
    }
    let is_real = matches!(kind, Kind::Double | Kind::Float | Kind::Half | Kind::BFloat16);
    (!is_real).then(|| {
        format!("{name} has dtype {kind:?}, expected fractions: quantised weights are not read")
    })
}

/// A file's tensor as the parameter `name` holds it.
fn as_held<C: PretrainedConfig>(config: &C, name: &str, stored: &Tensor) -> Tensor {
    let transposed = config.is_transposed(name) && stored.dim() == 2;
    if transposed { stored.transpose(0, 1) } else { stored.shallow_clone() }
}

/// The names under which files may hold the parameter `name`.
pub(super) fn names_of<C: PretrainedConfig>(config: &C, name: &str) -> Vec<String> {
    let (base, mut names) = (config.base(), vec![name.to_owned()]);
    if !base.is_empty() {
        names.push(match name.strip_prefix(&base) {
            Some(rest) => rest.to_owned(),
            None => format!("{base}{name}"),
        });
    }
    let aliases: Vec<_> = names.iter().flat_map(|name| config.aliases(name)).collect();
    names.extend(aliases);
    names
}
