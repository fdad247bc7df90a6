//! What reading and writing folders needs to know of a family.

use std::collections::BTreeMap;

use bert4rs_tensor_core::Tensor;
use serde_json::{Value, json};

use super::{ModelType, from_keys};
use crate::bert::{BertConfig, relatives};
use crate::error::Result;
use crate::gpt::GptConfig;
use crate::overrides::ArchitectureOverrides;
use crate::t5::T5Config;

/// A configuration, and how the folders of its family are laid out.
pub trait PretrainedConfig: Sized {
    /// The families whose `config.json` it reads.
    const MODEL_TYPES: &'static [ModelType];

    /// From the keys of `config.json` of that family.
    ///
    /// # Errors
    /// The key and what is wrong with its value.
    fn from_json(model_type: ModelType, json: &Value) -> std::result::Result<Self, String>;

    /// The keys of `config.json`.
    ///
    /// # Errors
    /// What JSON can't hold.
    fn to_json(&self) -> serde_json::Result<Value>;

    /// Its family.
    fn model_type(&self) -> ModelType;

    /// Refuses what no model can have, naming key and value.
    fn validate(&self) -> Result<()>;

    /// Departures from the published form.
    fn overrides(&self) -> &ArchitectureOverrides;

    /// Keys of `config.json` with the one value that we compute; absent means that value.
    fn fixed(&self) -> Value;

    /// The key and the number of blocks of each stack, and what the names of block `n` begin with
    /// before `n`.
    fn stacks(&self) -> Vec<(&'static str, i64, String)>;

    /// What the names of a model with a head begin with, and those of one without lack.
    fn base(&self) -> String;

    /// Settles what only the weights tell.
    fn settle(&mut self, _tensors: &BTreeMap<String, Tensor>) {}

    /// Whether files hold this parameter as `[in, out]`.
    fn is_transposed(&self, _name: &str) -> bool {
        false
    }

    /// Other names that files have for this parameter.
    fn aliases(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }

    /// Whether files may hold this beside the parameters: buffers that are computed anew.
    fn is_buffer(&self, _name: &str) -> bool {
        false
    }

    /// The names of the output matrix and of the parameter that it is a copy of, if it is one.
    /// Files may hold both, or either.
    fn tied(&self) -> Option<[String; 2]>;
}

impl PretrainedConfig for BertConfig {
    const MODEL_TYPES: &'static [ModelType] = &[
        ModelType::Bert,
        ModelType::Roberta,
        ModelType::XlmRoberta,
        ModelType::DistilBert,
        ModelType::Electra,
        ModelType::ModernBert,
    ];

    fn from_json(model_type: ModelType, json: &Value) -> std::result::Result<Self, String> {
        relatives::from_json(model_type, json)
    }

    fn to_json(&self) -> serde_json::Result<Value> {
        relatives::to_json(self)
    }

    fn model_type(&self) -> ModelType {
        self.variant.model_type()
    }

    fn validate(&self) -> Result<()> {
        self.validate()
    }

    fn overrides(&self) -> &ArchitectureOverrides {
        &self.overrides
    }

    fn fixed(&self) -> Value {
        relatives::fixed(&self.variant)
    }

    fn stacks(&self) -> Vec<(&'static str, i64, String)> {
        let names = self.variant.names();
        let key = match self.model_type() {
            ModelType::DistilBert => "n_layers",
            _ => "num_hidden_layers",
        };
        vec![(key, self.num_hidden_layers, format!("{}.{}.", names.base, names.blocks))]
    }

    fn base(&self) -> String {
        format!("{}.", self.variant.names().base)
    }

    fn aliases(&self, name: &str) -> Vec<String> {
        let head = &self.variant.names().masked_lm;
        // Models converted from the first TensorFlow files call a norm's parameters so.
        if let Some(stem) = name.strip_suffix("LayerNorm.weight") {
            vec![format!("{stem}LayerNorm.gamma")]
        } else if let Some(stem) = name.strip_suffix("LayerNorm.bias") {
            vec![format!("{stem}LayerNorm.beta")]
        } else if name == head.bias {
            vec![format!("{}.bias", head.output)]
        } else {
            Vec::new()
        }
    }

    fn is_buffer(&self, name: &str) -> bool {
        name.ends_with("embeddings.position_ids") || name.ends_with("embeddings.token_type_ids")
    }

    fn tied(&self) -> Option<[String; 2]> {
        let names = self.variant.names();
        let output = format!("{}.weight", names.masked_lm.output);
        Some([output, format!("{}.{}.weight", names.base, names.words)])
    }
}

impl PretrainedConfig for GptConfig {
    const MODEL_TYPES: &'static [ModelType] = &[ModelType::Gpt2];

    fn from_json(_model_type: ModelType, json: &Value) -> std::result::Result<Self, String> {
        from_keys(json)
    }

    fn to_json(&self) -> serde_json::Result<Value> {
        serde_json::to_value(self)
    }

    fn model_type(&self) -> ModelType {
        ModelType::Gpt2
    }

    fn validate(&self) -> Result<()> {
        self.validate()
    }

    fn overrides(&self) -> &ArchitectureOverrides {
        &self.overrides
    }

    fn fixed(&self) -> Value {
        json!({ "add_cross_attention": false, "tie_word_embeddings": true })
    }

    fn stacks(&self) -> Vec<(&'static str, i64, String)> {
        vec![("n_layer", self.n_layer, "transformer.h.".into())]
    }

    fn base(&self) -> String {
        "transformer.".into()
    }

    fn is_transposed(&self, name: &str) -> bool {
        // transformers' Conv1D: every matrix within a block.
        name.contains(".c_") && name.ends_with(".weight")
    }

    fn is_buffer(&self, name: &str) -> bool {
        name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
    }

    fn tied(&self) -> Option<[String; 2]> {
        Some(["lm_head.weight", "transformer.wte.weight"].map(str::to_owned))
    }
}

/// What files may call T5's table of tokens.
const T5_TABLES: [&str; 3] =
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];

impl PretrainedConfig for T5Config {
    const MODEL_TYPES: &'static [ModelType] = &[ModelType::T5];

    fn from_json(_model_type: ModelType, json: &Value) -> std::result::Result<Self, String> {
        from_keys(json)
    }

    fn to_json(&self) -> serde_json::Result<Value> {
        let mut json = serde_json::to_value(self)?;
        json["is_encoder_decoder"] = true.into();
        Ok(json)
    }

    fn model_type(&self) -> ModelType {
        ModelType::T5
    }

    fn validate(&self) -> Result<()> {
        self.validate()
    }

    fn overrides(&self) -> &ArchitectureOverrides {
        &self.overrides
    }

    fn fixed(&self) -> Value {
        json!({ "decoder_start_token_id": self.pad_token_id })
    }

    fn stacks(&self) -> Vec<(&'static str, i64, String)> {
        vec![
            ("num_layers", self.num_layers, "encoder.block.".into()),
            ("num_decoder_layers", self.decoder_layers(), "decoder.block.".into()),
        ]
    }

    fn base(&self) -> String {
        String::new()
    }

    /// transformers 5 writes `tie_word_embeddings: true` whether or not the head is tied, but
    /// says how outputs are scaled: the weights tell.
    fn settle(&mut self, tensors: &BTreeMap<String, Tensor>) {
        let table = T5_TABLES.iter().find_map(|name| tensors.get(*name));
        if let (true, Some(head), Some(table)) =
            (self.tie_word_embeddings, tensors.get("lm_head.weight"), table)
            && head != table
        {
            self.scale_decoder_outputs = Some(self.scales_decoder_outputs());
            self.tie_word_embeddings = false;
        }
    }

    fn aliases(&self, name: &str) -> Vec<String> {
        match T5_TABLES.contains(&name) {
            true => T5_TABLES.map(str::to_owned).into(),
            false => Vec::new(),
        }
    }

    fn is_buffer(&self, name: &str) -> bool {
        // Files converted from the first TensorFlow models hold a table that is never used.
        name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    }

    fn tied(&self) -> Option<[String; 2]> {
        let names = ["lm_head.weight", T5_TABLES[0]].map(str::to_owned);
        self.tie_word_embeddings.then_some(names)
    }
}
