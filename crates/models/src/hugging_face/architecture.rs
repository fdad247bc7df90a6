//! Which models there are, and how each family's folders are laid out.

use std::collections::BTreeMap;

use bert4rs_tensor_core::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::bert::BertConfig;
use crate::error::Result;
use crate::gpt::GptConfig;
use crate::overrides::ArchitectureOverrides;
use crate::t5::T5Config;

/// A class of transformers that we read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// An encoder without a head.
    BertModel,
    /// With the masked-language-model head.
    BertForMaskedLm,
    /// With the masked-language-model and next-sentence heads.
    BertForPreTraining,
    /// With a class for each sequence.
    BertForSequenceClassification,
    /// With a class for each token.
    BertForTokenClassification,
    /// With the start and end of an answer.
    BertForQuestionAnswering,
    /// GPT-2 without a head; its head is its token table, so it loads as one with.
    Gpt2Model,
    /// GPT-2 with its language-model head.
    Gpt2LmHeadModel,
    /// T5 with its language-model head.
    T5ForConditionalGeneration,
}

impl Architecture {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::BertModel,
        Self::BertForMaskedLm,
        Self::BertForPreTraining,
        Self::BertForSequenceClassification,
        Self::BertForTokenClassification,
        Self::BertForQuestionAnswering,
        Self::Gpt2Model,
        Self::Gpt2LmHeadModel,
        Self::T5ForConditionalGeneration,
    ];

    /// Its name in transformers and in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BertModel => "BertModel",
            Self::BertForMaskedLm => "BertForMaskedLM",
            Self::BertForPreTraining => "BertForPreTraining",
            Self::BertForSequenceClassification => "BertForSequenceClassification",
            Self::BertForTokenClassification => "BertForTokenClassification",
            Self::BertForQuestionAnswering => "BertForQuestionAnswering",
            Self::Gpt2Model => "GPT2Model",
            Self::Gpt2LmHeadModel => "GPT2LMHeadModel",
            Self::T5ForConditionalGeneration => "T5ForConditionalGeneration",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.name() == name)
    }

    /// `model_type` of its family.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Gpt2Model | Self::Gpt2LmHeadModel => GptConfig::MODEL_TYPE,
            Self::T5ForConditionalGeneration => T5Config::MODEL_TYPE,
            _ => BertConfig::MODEL_TYPE,
        }
    }
}

/// A family's configuration, and how its folders are laid out.
pub trait PretrainedConfig: Serialize + DeserializeOwned {
    /// `model_type` in `config.json`.
    const MODEL_TYPE: &'static str;

    /// What the names of a model with a head begin with, and those of one without lack.
    const BASE: &'static str;

    /// Refuses what no model can have, naming key and value.
    fn validate(&self) -> Result<()>;

    /// Departures from the published form.
    fn overrides(&self) -> &ArchitectureOverrides;

    /// Keys of `config.json` with the one value that we compute; absent means that value.
    fn fixed(&self) -> Value;

    /// Settles what only the weights tell.
    fn settle(&mut self, _tensors: &BTreeMap<String, Tensor>) {}

    /// Whether files hold this parameter as `[in, out]`.
    fn is_transposed(_name: &str) -> bool {
        false
    }

    /// Other names that files have for this parameter.
    fn aliases(name: &str) -> Vec<String>;

    /// Whether files may hold this beside the parameters: buffers that are computed anew.
    fn is_buffer(name: &str) -> bool;

    /// Pairs of a name that files may hold, and the parameter that it is a copy of.
    fn tied(&self) -> &'static [(&'static str, &'static str)];
}

impl PretrainedConfig for BertConfig {
    const MODEL_TYPE: &'static str = "bert";
    const BASE: &'static str = "bert.";

    fn validate(&self) -> Result<()> {
        self.validate()
    }

    fn overrides(&self) -> &ArchitectureOverrides {
        &self.overrides
    }

    fn fixed(&self) -> Value {
        json!({
            "position_embedding_type": "absolute",
            "is_decoder": false,
            "add_cross_attention": false,
            "tie_word_embeddings": true,
        })
    }

    fn aliases(name: &str) -> Vec<String> {
        // Models converted from the first TensorFlow files call a norm's parameters so.
        if let Some(stem) = name.strip_suffix("LayerNorm.weight") {
            vec![format!("{stem}LayerNorm.gamma")]
        } else if let Some(stem) = name.strip_suffix("LayerNorm.bias") {
            vec![format!("{stem}LayerNorm.beta")]
        } else if name == "cls.predictions.bias" {
            vec!["cls.predictions.decoder.bias".into()]
        } else {
            Vec::new()
        }
    }

    fn is_buffer(name: &str) -> bool {
        name.ends_with("embeddings.position_ids") || name.ends_with("embeddings.token_type_ids")
    }

    fn tied(&self) -> &'static [(&'static str, &'static str)] {
        &[("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight")]
    }
}

impl PretrainedConfig for GptConfig {
    const MODEL_TYPE: &'static str = "gpt2";
    const BASE: &'static str = "transformer.";

    fn validate(&self) -> Result<()> {
        self.validate()
    }

    fn overrides(&self) -> &ArchitectureOverrides {
        &self.overrides
    }

    fn fixed(&self) -> Value {
        json!({ "add_cross_attention": false, "tie_word_embeddings": true })
    }

    fn is_transposed(name: &str) -> bool {
        // transformers' Conv1D: every matrix within a block.
        name.contains(".c_") && name.ends_with(".weight")
    }

    fn aliases(_name: &str) -> Vec<String> {
        Vec::new()
    }

    fn is_buffer(name: &str) -> bool {
        name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
    }

    fn tied(&self) -> &'static [(&'static str, &'static str)] {
        &[("lm_head.weight", "transformer.wte.weight")]
    }
}

impl PretrainedConfig for T5Config {
    const MODEL_TYPE: &'static str = "t5";
    const BASE: &'static str = "";

    fn validate(&self) -> Result<()> {
        self.validate()
    }

    fn overrides(&self) -> &ArchitectureOverrides {
        &self.overrides
    }

    fn fixed(&self) -> Value {
        json!({ "is_encoder_decoder": true, "decoder_start_token_id": self.pad_token_id })
    }

    /// transformers 5 writes `tie_word_embeddings: true` whether or not the head is tied, but
    /// says how outputs are scaled: the weights tell.
    fn settle(&mut self, tensors: &BTreeMap<String, Tensor>) {
        let head_and_table = (tensors.get("lm_head.weight"), tensors.get("shared.weight"));
        if let (true, (Some(head), Some(table))) = (self.tie_word_embeddings, head_and_table)
            && head != table
        {
            self.scale_decoder_outputs = Some(self.scales_decoder_outputs());
            self.tie_word_embeddings = false;
        }
    }

    fn aliases(name: &str) -> Vec<String> {
        if name == "shared.weight" {
            vec!["encoder.embed_tokens.weight".into(), "decoder.embed_tokens.weight".into()]
        } else {
            Vec::new()
        }
    }

    fn is_buffer(name: &str) -> bool {
        // Files converted from the first TensorFlow models hold a table that is never used.
        name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    }

    fn tied(&self) -> &'static [(&'static str, &'static str)] {
        if self.tie_word_embeddings { &[("lm_head.weight", "shared.weight")] } else { &[] }
    }
}
