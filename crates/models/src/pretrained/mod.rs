//! A model folder's model, whatever its architecture: named tensors in, named tensors out.

mod forward;
mod inputs;

use std::path::Path;

use bert4rs_tensor_core::attention::Implementation;
use bert4rs_tensor_core::param::{Param, ParamStore};
use bert4rs_tensor_core::{Device, Kind, Tensor};

pub use forward::Outputs;
pub use inputs::Inputs;

use crate::bert::{
    BertConfig, BertForMaskedLm, BertForPreTraining, BertForQuestionAnswering,
    BertForSequenceClassification, BertForTokenClassification, BertModel, Pooler,
};
use crate::error::{Error, Result};
use crate::gpt::{Gpt, GptConfig};
use crate::hugging_face::{Architecture, Folder, PretrainedConfig};
use crate::t5::{T5, T5Config};

/// Where and how numbers are computed.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// The device of weights and inputs.
    pub device: Device,
    /// The dtype of weights and activations.
    pub kind: Kind,
    /// Which code computes attention.
    pub attention: Implementation,
}

impl Default for LoadOptions {
    /// FP32 on the CPU, with the fastest attention.
    fn default() -> Self {
        Self { device: Device::Cpu, kind: Kind::Float, attention: Implementation::Fused }
    }
}

/// The model of a folder, in its own type.
#[expect(clippy::large_enum_variant, reason = "a program holds one or two")]
#[derive(Debug)]
pub enum Model {
    /// `BertModel`; the pooler where the folder has one.
    Bert(BertModel, Option<Pooler>),
    /// `BertForMaskedLM`.
    MaskedLm(BertForMaskedLm),
    /// `BertForPreTraining`.
    PreTraining(BertForPreTraining),
    /// `BertForSequenceClassification`.
    Classes(BertForSequenceClassification, Problem),
    /// `BertForTokenClassification`.
    TokenClasses(BertForTokenClassification),
    /// `BertForQuestionAnswering`.
    Answers(BertForQuestionAnswering),
    /// `GPT2LMHeadModel` and `GPT2Model`.
    Gpt(Gpt),
    /// `T5ForConditionalGeneration`.
    T5(T5),
}

/// What the classes of sequences mean, and so which loss they have: `problem_type` in
/// `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// Not said: numbers with one output, else a class where labels are whole numbers, else any
    /// number of classes.
    Unsaid,
    /// Numbers, with the mean squared distance.
    Regression,
    /// One class, with cross-entropy.
    SingleLabel,
    /// Any number of classes, with a binary cross-entropy for each.
    MultiLabel,
}

/// A model and its parameters, as its folder has them.
#[derive(Debug)]
pub struct Pretrained {
    architecture: Architecture,
    model: Model,
    params: ParamStore,
}

impl Pretrained {
    /// Reads the model in the folder `path`.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`from_folder`](Self::from_folder).
    pub fn load(path: &Path, compute: LoadOptions) -> Result<Self> {
        Self::from_folder(&Folder::open(path)?, compute)
    }

    /// Makes the model that `folder` holds.
    ///
    /// # Errors
    /// An architecture that we don't have, a configuration that no model can have, and weights
    /// that are not those of the model.
    pub fn from_folder(folder: &Folder, compute: LoadOptions) -> Result<Self> {
        let architecture = folder.architecture()?;
        let mut params = ParamStore::new(compute.device, compute.kind);
        let with = compute.attention;
        let model = match architecture {
            Architecture::Gpt2Model | Architecture::Gpt2LmHeadModel => {
                let config: GptConfig = folder.config()?;
                let model = Gpt::new(&params.root(), &config, with)?;
                folder.load(&config, &mut params, &[])?;
                Model::Gpt(model)
            }
            Architecture::T5ForConditionalGeneration => {
                let config: T5Config = folder.config()?;
                let model = T5::new(&params.root(), &config, with)?;
                folder.load(&config, &mut params, &[])?;
                Model::T5(model)
            }
            _ => {
                let config: BertConfig = folder.config()?;
                let model = bert(architecture, folder, &config, &params, with)?;
                folder.load(&config, &mut params, &[])?;
                model
            }
        };
        Ok(Self { architecture, model, params })
    }

    /// The class of transformers that the folder was written by.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The model itself.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// BERT's encoder; `None` for another family.
    pub fn encoder(&self) -> Option<&BertModel> {
        match &self.model {
            Model::Bert(encoder, _) => Some(encoder),
            Model::MaskedLm(model) => Some(model.bert()),
            Model::PreTraining(model) => Some(model.masked().bert()),
            Model::Classes(model, _) => Some(model.bert()),
            Model::TokenClasses(model) => Some(model.bert()),
            Model::Answers(model) => Some(model.bert()),
            Model::Gpt(_) | Model::T5(_) => None,
        }
    }

    /// Its parameters.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// A tensor shaped as the parameter, laid out as files have it.
    fn as_stored(&self, param: &Param, value: Tensor) -> Tensor {
        let is_gpt = matches!(self.model, Model::Gpt(_));
        let transposed = is_gpt && GptConfig::is_transposed(&param.name) && value.dim() == 2;
        if transposed { value.transpose(0, 1).contiguous() } else { value }
    }
}

/// One of BERT's models, its parameters in `params`.
fn bert(
    architecture: Architecture,
    folder: &Folder,
    config: &BertConfig,
    params: &ParamStore,
    with: Implementation,
) -> Result<Model> {
    let root = &params.root();
    Ok(match architecture {
        Architecture::BertForMaskedLm => Model::MaskedLm(BertForMaskedLm::new(root, config, with)?),
        Architecture::BertForPreTraining => {
            Model::PreTraining(BertForPreTraining::new(root, config, with)?)
        }
        Architecture::BertForSequenceClassification => {
            let classes = classes(folder);
            let model = BertForSequenceClassification::new(root, config, classes, with)?;
            Model::Classes(model, problem(folder)?)
        }
        Architecture::BertForTokenClassification => {
            let classes = classes(folder);
            Model::TokenClasses(BertForTokenClassification::new(root, config, classes, with)?)
        }
        Architecture::BertForQuestionAnswering => {
            Model::Answers(BertForQuestionAnswering::new(root, config, with)?)
        }
        _ => {
            let encoder = BertModel::new(&(root / "bert"), config, with)?;
            let names = ["pooler.dense.weight", "bert.pooler.dense.weight"];
            let pooler = if names.iter().any(|name| folder.tensors().contains_key(*name)) {
                Some(Pooler::new(&(root / "bert.pooler"), config)?)
            } else {
                None
            };
            Model::Bert(encoder, pooler)
        }
    })
}

/// How many classes a head has; transformers' default is 2.
fn classes(folder: &Folder) -> i64 {
    let config = folder.raw_config();
    let named = config["id2label"].as_object().map(|labels| labels.len() as i64);
    named.or_else(|| config["num_labels"].as_i64()).unwrap_or(2)
}

fn problem(folder: &Folder) -> Result<Problem> {
    let value = &folder.raw_config()["problem_type"];
    match value.as_str() {
        None if value.is_null() => Ok(Problem::Unsaid),
        Some("regression") => Ok(Problem::Regression),
        Some("single_label_classification") => Ok(Problem::SingleLabel),
        Some("multi_label_classification") => Ok(Problem::MultiLabel),
        _ => {
            let reason = "must be regression, single_label_classification or \
                          multi_label_classification";
            Err(Error::config("problem_type", value, reason))
        }
    }
}
