//! A model folder's model, whatever its architecture: named tensors in, named tensors out.

mod adapters;
mod forward;
mod head;
mod inputs;
mod make;
mod save;
mod sequences;

use std::path::{Path, PathBuf};

use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::{Param, ParamStore};
use bert4rs_tensor_core::{Device, Kind, Tensor};
use serde_json::Value;

pub use adapters::LoraOptions;
pub use forward::Outputs;
pub use head::OldHead;
pub use inputs::Inputs;
pub use sequences::SequenceRows;

use crate::bert::{
    BertForMaskedLm, BertForPreTraining, BertForQuestionAnswering, BertForReplacedTokens,
    BertForSequenceClassification, BertForTokenClassification, BertModel, Pooler,
};
use crate::checkpointing::ActivationCheckpointing;
use crate::error::Result;
use crate::gpt::{Gpt, GptConfig, GptForSequenceClassification};
use crate::hugging_face::{Architecture, Folder, Loaded, ModelType, PretrainedConfig};
use crate::layers::Linear;
use crate::t5::{T5, T5Encoder, T5EncoderForSequenceClassification};
use adapters::AdaptedWeight;

/// Where and how numbers are computed.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// The device of weights and inputs.
    pub device: Device,
    /// The dtype of weights and activations.
    pub kind: Kind,
    /// Which code computes attention.
    pub attention: AttentionImplementation,
}

impl Default for LoadOptions {
    /// FP32 on the CPU, with the fastest attention.
    fn default() -> Self {
        Self { device: Device::Cpu, kind: Kind::Float, attention: AttentionImplementation::Fused }
    }
}

/// The model of a folder, in its own type. Those named after BERT are its relatives' too.
#[derive(Debug)]
pub enum Model {
    /// `BertModel`; the pooler where the folder has one.
    Bert(BertModel, Option<Pooler>),
    /// `BertForMaskedLM`.
    MaskedLm(BertForMaskedLm),
    /// `BertForPreTraining`.
    PreTraining(BertForPreTraining),
    /// `ElectraForPreTraining`.
    ReplacedTokens(BertForReplacedTokens),
    /// `BertForSequenceClassification`.
    Classes(BertForSequenceClassification, Problem),
    /// `BertForTokenClassification`.
    TokenClasses(BertForTokenClassification),
    /// `BertForQuestionAnswering`.
    Answers(BertForQuestionAnswering),
    /// `GPT2LMHeadModel` and `GPT2Model`.
    Gpt(Gpt),
    /// `GPT2ForSequenceClassification`.
    GptClasses(GptForSequenceClassification, Problem),
    /// `T5ForConditionalGeneration`.
    T5(T5),
    /// `T5EncoderModel`.
    T5Encoder(T5Encoder),
    /// The same with a class for each sequence.
    T5Classes(T5EncoderForSequenceClassification, Problem),
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
    /// Weights that have adapters.
    adapted: Vec<AdaptedWeight>,
    /// The folder, and its `config.json`.
    source: PathBuf,
    config: Value,
}

impl Pretrained {
    /// Reads the model in the folder `path`.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`from_folder`](Self::from_folder).
    pub fn load(path: &Path, options: LoadOptions) -> Result<Self> {
        Self::from_folder(&Folder::open(path)?, options)
    }

    /// Makes the model that `folder` holds.
    ///
    /// # Errors
    /// An architecture that we don't have, a configuration that no model can have, and weights
    /// that are not those of the model.
    pub fn from_folder(folder: &Folder, options: LoadOptions) -> Result<Self> {
        Self::of_architecture(folder, folder.architecture()?, options)
    }

    /// [`from_folder`](Self::from_folder) for hidden states alone: of a class that we don't have,
    /// the family's class without a head.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder), of a family that we don't have.
    pub fn encoder_from_folder(folder: &Folder, options: LoadOptions) -> Result<Self> {
        Self::of_architecture(folder, folder.encoder_architecture()?, options)
    }

    fn of_architecture(
        folder: &Folder,
        architecture: Architecture,
        options: LoadOptions,
    ) -> Result<Self> {
        let params = ParamStore::new(options.device, options.kind);
        let never = |_: &str| false;
        Self::assemble(folder, architecture, options, params, &never, &never)
            .map(|(model, _)| model)
    }

    /// The model of `architecture` in `params`. Those that `may_be_fresh` names keep their start
    /// where the folder has nothing for them that fits, and those that `replaced` names in any
    /// case.
    fn assemble(
        folder: &Folder,
        architecture: Architecture,
        options: LoadOptions,
        params: ParamStore,
        may_be_fresh: &dyn Fn(&str) -> bool,
        replaced: &dyn Fn(&str) -> bool,
    ) -> Result<(Self, Loaded)> {
        let build = Build { folder, architecture, options, may_be_fresh, replaced };
        match architecture.model_type() {
            ModelType::Gpt2 => build.run(params, |config, params| {
                make::gpt(architecture, folder, config, params, options)
            }),
            ModelType::T5 => build.run(params, |config, params| {
                make::t5(architecture, folder, config, params, options)
            }),
            _ => build.run(params, |config, params| {
                make::bert(architecture, folder, config, params, options)
            }),
        }
    }

    /// The class of transformers that the folder was written by.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The model itself.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The encoder of BERT or a relative; `None` for another family.
    pub fn encoder(&self) -> Option<&BertModel> {
        match &self.model {
            Model::Bert(encoder, _) => Some(encoder),
            Model::MaskedLm(model) => Some(model.bert()),
            Model::PreTraining(model) => Some(model.masked().bert()),
            Model::ReplacedTokens(model) => Some(model.bert()),
            Model::Classes(model, _) => Some(model.bert()),
            Model::TokenClasses(model) => Some(model.bert()),
            Model::Answers(model) => Some(model.bert()),
            Model::Gpt(_) | Model::GptClasses(..) | Model::T5(_) => None,
            Model::T5Encoder(_) | Model::T5Classes(..) => None,
        }
    }

    /// Chooses what activation checkpointing drops and recomputes; nothing at first.
    pub fn set_activation_checkpointing(&mut self, checkpointing: ActivationCheckpointing) {
        match &mut self.model {
            Model::Gpt(model) => model.set_activation_checkpointing(checkpointing),
            Model::GptClasses(model, _) => {
                model.gpt_mut().set_activation_checkpointing(checkpointing);
            }
            Model::T5(model) => model.set_activation_checkpointing(checkpointing),
            Model::T5Encoder(model) => model.set_activation_checkpointing(checkpointing),
            Model::T5Classes(model, _) => {
                model.encoder_mut().set_activation_checkpointing(checkpointing);
            }
            other => {
                if let Some(encoder) = encoder_mut(other) {
                    encoder.set_activation_checkpointing(checkpointing);
                }
            }
        }
    }

    /// The maps within blocks, to be changed.
    fn maps_mut(&mut self) -> Vec<&mut Linear> {
        match &mut self.model {
            Model::Gpt(model) => model.maps_mut().collect(),
            Model::GptClasses(model, _) => model.gpt_mut().maps_mut().collect(),
            Model::T5(model) => model.maps_mut().collect(),
            Model::T5Encoder(model) => model.maps_mut().collect(),
            Model::T5Classes(model, _) => model.encoder_mut().maps_mut().collect(),
            other => encoder_mut(other).into_iter().flat_map(BertModel::maps_mut).collect(),
        }
    }

    /// The most tokens that it has positions for; `None` where there is no limit.
    pub fn longest(&self) -> Option<usize> {
        let gpt = |config: &GptConfig| match config.overrides.rotary {
            None => Some(config.n_positions as usize),
            Some(_) => None,
        };
        match (&self.model, self.encoder()) {
            (Model::Gpt(model), _) => gpt(model.config()),
            (Model::GptClasses(model, _), _) => gpt(model.gpt().config()),
            (_, Some(encoder)) if encoder.config().rotary().is_none() => {
                Some(encoder.config().longest() as usize)
            }
            _ => None,
        }
    }

    /// Its parameters.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// A tensor shaped as the parameter, laid out as files have it.
    fn as_stored(&self, param: &Param, value: Tensor) -> Tensor {
        let config = match &self.model {
            Model::Gpt(model) => Some(model.config()),
            Model::GptClasses(model, _) => Some(model.gpt().config()),
            _ => None,
        };
        let transposed = config.is_some_and(|config| config.is_transposed(&param.name));
        match transposed && value.dim() == 2 {
            true => value.transpose(0, 1).contiguous(),
            false => value,
        }
    }
}

/// The encoder of BERT or a relative, to be changed; `None` for another family.
fn encoder_mut(model: &mut Model) -> Option<&mut BertModel> {
    match model {
        Model::Bert(encoder, _) => Some(encoder),
        Model::MaskedLm(model) => Some(model.bert_mut()),
        Model::PreTraining(model) => Some(model.masked_mut().bert_mut()),
        Model::ReplacedTokens(model) => Some(model.bert_mut()),
        Model::Classes(model, _) => Some(model.bert_mut()),
        Model::TokenClasses(model) => Some(model.bert_mut()),
        Model::Answers(model) => Some(model.bert_mut()),
        Model::Gpt(_) | Model::GptClasses(..) | Model::T5(_) => None,
        Model::T5Encoder(_) | Model::T5Classes(..) => None,
    }
}

/// What [`Pretrained::assemble`] is given, for any family's configuration.
struct Build<'a> {
    folder: &'a Folder,
    architecture: Architecture,
    options: LoadOptions,
    may_be_fresh: &'a dyn Fn(&str) -> bool,
    replaced: &'a dyn Fn(&str) -> bool,
}

impl Build<'_> {
    fn run<C: PretrainedConfig>(
        &self,
        mut params: ParamStore,
        make: impl Fn(&C, &ParamStore) -> Result<Model>,
    ) -> Result<(Pretrained, Loaded)> {
        let folder = self.folder;
        let config: C = folder.config()?;
        let class = self.architecture;
        tracing::debug!(folder = %folder.path().display(), %class, "making a model");
        // Weights that don't fit are refused before memory is asked for.
        let shapes = ParamStore::meta(self.options.kind);
        make(&config, &shapes)?;
        folder.check_under(&config, &shapes, self.may_be_fresh, self.replaced)?;
        let model = make(&config, &params)?;
        let loaded = folder.load_under(&config, &mut params, self.may_be_fresh, self.replaced)?;
        let (source, config) = (folder.path().to_owned(), folder.raw_config().clone());
        let architecture = self.architecture;
        let adapted = Vec::new();
        Ok((Pretrained { architecture, model, params, adapted, source, config }, loaded))
    }
}
