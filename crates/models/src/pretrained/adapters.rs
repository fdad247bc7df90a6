//! Low-rank adapters (LoRA, arXiv 2106.09685) of a loaded model: made beside weights that then stay
//! as they are, merged into them when the model is saved, and written as peft has them.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::{Init, Param, ParamStore, Role};
use bert4rs_tensor_core::{Error as Core, Kind, Tensor, no_grad, safetensors};
use serde_json::json;

use super::head::is_above;
use super::{Model, Pretrained};
use crate::error::{Error, Result};
use crate::hugging_face::{HeadKind, ModelType};
use crate::layers::{Dropout, LowRankAdapter};

/// What adapters are made.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraOptions {
    /// How many features an adapter has between its two maps.
    pub rank: i64,
    /// What it adds is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// The maps that get one, by the ends of their names, such as `query`; none means the family's
    /// usual ones, and `all-linear` all maps within blocks.
    pub targets: Vec<String>,
    /// The share of an adapter's inputs that is dropped in training.
    pub dropout: f64,
}

/// A map with an adapter.
#[derive(Debug)]
pub(super) struct AdaptedWeight {
    /// The map's name.
    map: String,
    /// `alpha / rank`.
    scale: f64,
}

/// All maps within blocks.
const ALL: &str = "all-linear";

const DOWN: &str = "lora_A.weight";
const UP: &str = "lora_B.weight";

/// Whether a parameter is an adapter's.
pub(super) fn is_adapter(name: &str) -> bool {
    name.ends_with(DOWN) || name.ends_with(UP)
}

/// The maps that peft adapts unless it is told others.
fn usual_targets(family: ModelType) -> &'static [&'static str] {
    match family {
        ModelType::Bert | ModelType::Roberta | ModelType::XlmRoberta | ModelType::Electra => {
            &["query", "value"]
        }
        ModelType::DistilBert => &["q_lin", "v_lin"],
        ModelType::ModernBert => &["Wqkv"],
        ModelType::Gpt2 => &["c_attn"],
        ModelType::T5 => &["q", "v"],
    }
}

impl Pretrained {
    /// Gives the maps that `options` names adapters, which add nothing at first, and lets the other
    /// weights, but those of a head, stay as they are: they require no gradients any more.
    ///
    /// # Errors
    /// Options that no adapter can have; a target that the model does not have.
    pub fn add_adapters(&mut self, options: &LoraOptions) -> Result<()> {
        let LoraOptions { rank, alpha, dropout, .. } = *options;
        if rank < 1 {
            return Err(Error::config("lora.rank", rank, "must be at least 1"));
        }
        let params = self.take_params();
        let names: HashMap<usize, String> = params
            .params()
            .iter()
            .filter_map(|param| {
                let map = param.name.strip_suffix(".weight")?;
                Some((param.weight.data_ptr() as usize, map.to_owned()))
            })
            .collect();
        let name_of = |weight: &Tensor| names.get(&(weight.data_ptr() as usize));
        let targets = self.targets(options, &name_of);
        let made = targets.and_then(|targets| {
            let scale = alpha / rank as f64;
            let mut adapted = Vec::new();
            for linear in self.maps_mut() {
                let Some(map) = name_of(&linear.weight) else { continue };
                if !is_target(map, &targets) {
                    continue;
                }
                let path = &params.root() / map;
                let (outputs, inputs) = (linear.weight.size()[0], linear.weight.size()[1]);
                // As wide as peft's uniform one.
                let init = Init::Normal((3.0 * inputs as f64).powf(-0.5));
                let down = path.param(DOWN, &[rank, inputs], Role::Matrix, init)?;
                let up = path.param(UP, &[outputs, rank], Role::Matrix, Init::Zeros)?;
                let dropout = Dropout { probability: dropout };
                linear.adapter = Some(LowRankAdapter { down, up, scale, dropout });
                adapted.push(AdaptedWeight { map: map.clone(), scale });
            }
            Ok(adapted)
        });
        self.params = params;
        self.adapted = made?;
        for param in self.params.params().iter() {
            if !is_adapter(&param.name) && !self.is_of_head(&param.name) {
                let _ = param.weight.set_requires_grad(false);
            }
        }
        Ok(())
    }

    /// The ends of the names of maps that get adapters.
    fn targets<'a>(
        &mut self,
        options: &LoraOptions,
        name_of: &impl Fn(&Tensor) -> Option<&'a String>,
    ) -> Result<Vec<String>> {
        let family = self.architecture.model_type();
        let usual = || usual_targets(family).iter().map(|&name| name.to_owned()).collect();
        let maps = self.maps_mut();
        let names: Vec<&String> = maps.iter().filter_map(|map| name_of(&map.weight)).collect();
        let asked = match &options.targets[..] {
            [] => usual(),
            [all] if all == ALL => names.iter().map(|name| (*name).clone()).collect(),
            asked => asked.to_vec(),
        };
        let missing = asked
            .iter()
            .find(|target| !names.iter().any(|name| is_target(name, std::slice::from_ref(target))));
        let Some(missing) = missing else { return Ok(asked) };
        let ends: BTreeSet<&str> =
            names.iter().filter_map(|name| name.rsplit('.').next()).collect();
        let known = ends.into_iter().collect::<Vec<_>>().join(", ");
        let reason = format!("names no map within the model's blocks; it has {known}, or {ALL}");
        Err(Error::config("lora.targets", missing, reason))
    }

    /// Whether a parameter is a head's, which learns beside adapters.
    fn is_of_head(&self, name: &str) -> bool {
        match (&self.model, self.encoder()) {
            (Model::GptClasses(..), _) => name.starts_with("score."),
            (Model::T5Classes(..), _) => name.starts_with("classification_head."),
            (_, Some(encoder)) => is_above(encoder.config(), name),
            _ => false,
        }
    }

    /// A parameter's exact value, with what its adapter adds. `params` are all.
    pub(super) fn merged(&self, param: &Param, params: &[Param]) -> Result<Tensor> {
        let exact = param.master_or_weight().shallow_clone();
        let map = param.name.strip_suffix(".weight");
        let adapted = self.adapted.iter().find(|adapted| Some(&*adapted.map) == map);
        let Some(AdaptedWeight { map, scale }) = adapted else { return Ok(exact) };
        let value = |part: &str| {
            let name = format!("{map}.{part}");
            let found = params.iter().find(|param| param.name == name);
            let missing = || Core::Torch { op: name.clone(), message: "is missing".into() };
            found.map(|param| param.master_or_weight().to_kind(Kind::Float)).ok_or_else(missing)
        };
        let added = no_grad(|| {
            let product = value(UP)?.f_matmul(&value(DOWN)?).during("merge an adapter")?;
            (exact.to_kind(Kind::Float) + product * *scale).f_to_kind(exact.kind()).during(map)
        });
        Ok(added?)
    }

    /// Writes the adapters alone, and what else was trained, as peft loads them beside the model
    /// that they began with: `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// A place that can't be written.
    pub fn save_adapters(
        &self,
        params: &ParamStore,
        options: &LoraOptions,
        folder: &Path,
    ) -> Result<()> {
        let io = |source| Error::from(Core::Io { path: folder.to_owned(), source });
        std::fs::create_dir_all(folder).map_err(io)?;
        // Within peft a class without a head has no prefix of its family.
        let prefix = match (self.architecture.head(), self.encoder()) {
            (HeadKind::Base, Some(encoder)) => {
                format!("{}.", encoder.config().variant.names().base)
            }
            _ => String::new(),
        };
        let inner = |name: &str| name.strip_prefix(&prefix).unwrap_or(name).to_owned();
        let params = params.params();
        let trained = params.iter().filter(|param| param.weight.requires_grad());
        let (mut tensors, mut whole) = (Vec::new(), BTreeSet::new());
        for param in trained {
            let name = inner(&param.name);
            if !is_adapter(&name) {
                whole.extend(name.rsplit_once('.').map(|(module, _)| module.to_owned()));
            }
            let value = self.as_stored(param, param.master_or_weight().shallow_clone());
            tensors.push((format!("base_model.model.{name}"), value));
        }
        let named: Vec<_> = tensors.iter().map(|(name, x)| (name.clone(), x)).collect();
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::save(&folder.join("adapter_model.safetensors"), &named, Some(metadata))?;
        let targets: Vec<String> = self.adapted.iter().map(|one| inner(&one.map)).collect();
        let config = json!({
            "peft_type": "LORA",
            "task_type": task_type(self.architecture.head()),
            "base_model_name_or_path": self.source.display().to_string(),
            "r": options.rank,
            "lora_alpha": options.alpha,
            "lora_dropout": options.dropout,
            "target_modules": targets,
            "modules_to_save": if whole.is_empty() { None } else { Some(whole) },
            "fan_in_fan_out": self.architecture.model_type() == ModelType::Gpt2,
            "bias": "none",
            "inference_mode": true,
        });
        let text = format!("{config:#}\n");
        let path = folder.join("adapter_config.json");
        Ok(safetensors::write_atomic(&path, text.as_bytes())?)
    }
}

/// Whether a map's name is, or ends with, one of `targets`.
fn is_target(map: &str, targets: &[String]) -> bool {
    targets.iter().any(|target| {
        map.strip_suffix(target.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// peft's name for what a head is for.
fn task_type(head: HeadKind) -> Option<&'static str> {
    match head {
        HeadKind::SequenceClassification => Some("SEQ_CLS"),
        HeadKind::TokenClassification => Some("TOKEN_CLS"),
        HeadKind::QuestionAnswering => Some("QUESTION_ANS"),
        HeadKind::CausalLm => Some("CAUSAL_LM"),
        HeadKind::ConditionalGeneration => Some("SEQ_2_SEQ_LM"),
        HeadKind::Base | HeadKind::Encoder => Some("FEATURE_EXTRACTION"),
        HeadKind::MaskedLm | HeadKind::PreTraining => None,
    }
}
