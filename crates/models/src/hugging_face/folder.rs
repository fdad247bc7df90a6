//! Reading a model folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Tensor, safetensors};
use serde_json::Value;

use super::{Architecture, PretrainedConfig};
use crate::error::{Error, Result};

/// A model folder: its configuration and weights, on the CPU.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    config: Value,
    tensors: BTreeMap<String, Tensor>,
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

    /// The class of transformers that the folder was written by.
    ///
    /// # Errors
    /// One that we don't have, or none named.
    pub fn architecture(&self) -> Result<Architecture> {
        let named = self.config["architectures"][0].as_str();
        if let Some(architecture) = named.and_then(Architecture::named) {
            return Ok(architecture);
        }
        let known: Vec<_> = Architecture::ALL.map(Architecture::name).into();
        let found = named.map_or("none".to_owned(), |name| format!("{name:?}"));
        let reason = format!("architectures is {found}; bert4rs has {}", known.join(", "));
        Err(self.bad_config(reason))
    }

    /// `config.json` as written, for keys that only a program needs, such as `id2label`.
    pub fn raw_config(&self) -> &Value {
        &self.config
    }

    /// The folder's tensors by name, as stored.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The family's configuration, validated.
    ///
    /// # Errors
    /// Another family; values that are of a wrong type, that no model can have, or that ask for
    /// something that we don't compute.
    pub fn config<F: PretrainedConfig>(&self) -> Result<F> {
        let ours = format!("bert4rs-{}", F::MODEL_TYPE);
        match self.config["model_type"].as_str() {
            Some(found) if found == F::MODEL_TYPE || found == ours => {}
            Some(found) => {
                let expected = F::MODEL_TYPE;
                let reason = format!("model_type is {found:?}, expected {expected:?}");
                return Err(self.bad_config(reason));
            }
            None => return Err(self.bad_config("model_type is missing".into())),
        }
        let mut config: F = serde_path_to_error::deserialize(&self.config)
            .map_err(|error| self.bad_config(format!("{}: {}", error.path(), error.inner())))?;
        config.settle(&self.tensors);
        self.check_fixed(&config.fixed())?;
        config.validate()?;
        Ok(config)
    }

    /// Sets every parameter of `store` to the tensor of its name, under any name that the family
    /// has had for it.
    ///
    /// Parameters whose name begins with one of `may_be_fresh` keep their start where the folder
    /// has no tensor for them: new heads on an old encoder.
    ///
    /// # Errors
    /// One error that lists all parameters that are missing or of another shape, and copies of
    /// tied weights that differ from them. Nothing is set then.
    pub fn load<F: PretrainedConfig>(
        &self,
        config: &F,
        store: &mut ParamStore,
        may_be_fresh: &[&str],
    ) -> Result<Loaded> {
        let mut known = BTreeSet::new();
        let (mut fresh, mut wrong, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for param in store.params().iter() {
            let names = names_of::<F>(&param.name);
            let found = names.iter().find_map(|name| self.tensors.get(name));
            known.extend(names);
            match found {
                Some(stored) => {
                    let value = as_held::<F>(&param.name, stored);
                    let (found, expected) = (value.size(), param.weight.size());
                    if found != expected {
                        let name = &param.name;
                        wrong.push(format!("{name} has shape {found:?}, expected {expected:?}"));
                    }
                    values.push(Some(value));
                }
                None => {
                    if may_be_fresh.iter().any(|start| param.name.starts_with(start)) {
                        fresh.push(param.name.clone());
                    } else {
                        wrong.push(format!("{} is missing", param.name));
                    }
                    values.push(None);
                }
            }
        }
        wrong.extend(self.differing_copies::<F>(config));
        if !wrong.is_empty() {
            return Err(Error::Weights { path: self.path.clone(), wrong });
        }
        for (param, value) in store.params_mut().iter_mut().zip(values) {
            if let Some(value) = value {
                param.set(&value)?;
            }
        }
        known.extend(config.tied().iter().map(|(copy, _)| (*copy).to_owned()));
        let unused =
            self.tensors.keys().filter(|name| !known.contains(*name) && !F::is_buffer(name));
        Ok(Loaded { fresh, unused: unused.cloned().collect() })
    }

    /// Copies of tied weights that are not copies.
    fn differing_copies<F: PretrainedConfig>(&self, config: &F) -> Vec<String> {
        let differs = |(copy, of): &(&str, &str)| {
            let (Some(copied), Some(source)) = (self.tensors.get(*copy), self.tensors.get(*of))
            else {
                return None;
            };
            let reason = "bert4rs ties them: set tie_word_embeddings and save the model tied";
            (copied != source).then(|| format!("{copy} differs from {of}, but {reason}"))
        };
        config.tied().iter().filter_map(differs).collect()
    }

    /// Refuses keys that ask for what we don't compute.
    fn check_fixed(&self, fixed: &Value) -> Result<()> {
        let fixed = fixed.as_object().into_iter().flatten();
        for (key, expected) in fixed {
            match self.config.get(key) {
                Some(found) if found != expected && !found.is_null() => {
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

/// A file's tensor as the parameter `name` holds it.
fn as_held<F: PretrainedConfig>(name: &str, stored: &Tensor) -> Tensor {
    let transposed = F::is_transposed(name) && stored.dim() == 2;
    if transposed { stored.transpose(0, 1) } else { stored.shallow_clone() }
}

/// The names under which files may hold the parameter `name`.
fn names_of<F: PretrainedConfig>(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    if !F::BASE.is_empty() {
        names.push(match name.strip_prefix(F::BASE) {
            Some(rest) => rest.to_owned(),
            None => format!("{}{name}", F::BASE),
        });
    }
    let aliases: Vec<_> = names.iter().flat_map(|name| F::aliases(name)).collect();
    names.extend(aliases);
    names
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| bert4rs_tensor_core::Error::Io { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|error| Error::File {
        path: path.to_owned(),
        reason: format!("not JSON: {error}"),
    })
}

fn read_weights(folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    let whole = folder.join("model.safetensors");
    if whole.exists() {
        return Ok(safetensors::load(&whole)?);
    }
    let index = folder.join("model.safetensors.index.json");
    if index.exists() {
        return read_shards(folder, &index);
    }
    let is_pickle = |name: &str| name.ends_with(".bin") || name.ends_with(".pt");
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let pickle =
        names.map(|entry| entry.file_name()).find(|name| is_pickle(&name.to_string_lossy()));
    let reason = match pickle {
        Some(name) => format!(
            "weights are a pickle ({}), which can run any code when read; convert them once in \
             Python: AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)",
            name.to_string_lossy()
        ),
        None => "has neither model.safetensors nor model.safetensors.index.json".into(),
    };
    Err(Error::File { path: folder.to_owned(), reason })
}

/// The tensors of all shards that `index` names.
fn read_shards(folder: &Path, index: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bad = |reason: String| Error::File { path: index.to_owned(), reason };
    let json = read_json(index)?;
    let Some(map) = json["weight_map"].as_object() else {
        return Err(bad("has no weight_map from tensors to files".into()));
    };
    let shards: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let mut tensors = BTreeMap::new();
    for shard in shards {
        // A plain name: an index must not reach outside of its folder.
        if Path::new(shard).file_name() != Some(shard.as_ref()) {
            return Err(bad(format!("{shard:?} is not the name of a file in this folder")));
        }
        tensors.extend(safetensors::load(&folder.join(shard))?);
    }
    match map.keys().find(|name| !tensors.contains_key(*name)) {
        Some(name) => Err(bad(format!("{name} is not in the file that weight_map names"))),
        None => Ok(tensors),
    }
}
