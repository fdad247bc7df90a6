//! The model's section, read as each family's own configuration.

use bert4rs_models::bert::BertConfig;
use bert4rs_models::gpt::GptConfig;
use bert4rs_models::layers::feed_forward::Gated;
use bert4rs_models::layers::{FeedForwardKind, Rotary, Yarn};
use bert4rs_models::overrides::ArchitectureOverrides;
use bert4rs_models::t5::{T5Config, T5Size, T5Version};

use super::pretrained;
use super::{Biases, Config, Family, Head, ModelConfig, Positions, T5Form};

impl Config {
    /// The BERT that is asked for.
    pub fn bert(&self, pad: u32) -> BertConfig {
        let model = &self.model;
        if let Some(found) = pretrained::read::<BertConfig>(&model.file) {
            return BertConfig {
                vocab_size: model.vocab_size.into(),
                hidden_dropout_prob: model.dropout,
                attention_probs_dropout_prob: model.attention_dropout,
                pad_token_id: Some(pad.into()),
                ..found
            };
        }
        BertConfig {
            vocab_size: model.vocab_size.into(),
            hidden_size: model.hidden_size.into(),
            num_hidden_layers: model.num_layers.into(),
            num_attention_heads: model.num_heads.into(),
            intermediate_size: self.intermediate_size().into(),
            hidden_dropout_prob: model.dropout,
            attention_probs_dropout_prob: model.attention_dropout,
            max_position_embeddings: self.max_positions().into(),
            pad_token_id: Some(pad.into()),
            overrides: self.overrides(),
            ..BertConfig::default()
        }
    }

    /// The GPT that is asked for.
    pub fn gpt(&self, end_of_text: u32) -> GptConfig {
        let model = &self.model;
        if let Some(found) = pretrained::read::<GptConfig>(&model.file) {
            return GptConfig {
                vocab_size: model.vocab_size.into(),
                resid_pdrop: model.dropout,
                embd_pdrop: model.dropout,
                attn_pdrop: model.attention_dropout,
                bos_token_id: Some(end_of_text.into()),
                eos_token_id: Some(end_of_text.into()),
                ..found
            };
        }
        GptConfig {
            vocab_size: model.vocab_size.into(),
            n_positions: self.max_positions().into(),
            n_embd: model.hidden_size.into(),
            n_layer: model.num_layers.into(),
            n_head: model.num_heads.into(),
            n_inner: Some(self.intermediate_size().into()),
            resid_pdrop: model.dropout,
            embd_pdrop: model.dropout,
            attn_pdrop: model.attention_dropout,
            bos_token_id: Some(end_of_text.into()),
            eos_token_id: Some(end_of_text.into()),
            overrides: self.overrides(),
            ..GptConfig::default()
        }
    }

    /// The T5 that is asked for.
    pub fn t5(&self, pad: u32, end: u32) -> T5Config {
        let model = &self.model;
        if let Some(found) = pretrained::read::<T5Config>(&model.file) {
            return T5Config {
                vocab_size: model.vocab_size.into(),
                dropout_rate: model.dropout,
                attention_dropout_rate: None,
                classifier_dropout: None,
                pad_token_id: pad.into(),
                eos_token_id: end.into(),
                ..found
            };
        }
        let version = model.t5_form().version();
        let published = T5Config::published(version, T5Size::Small);
        let decoder =
            if model.decoder_layers == 0 { model.num_layers } else { model.decoder_layers };
        T5Config {
            vocab_size: model.vocab_size.into(),
            d_model: model.hidden_size.into(),
            d_kv: model.head_size().into(),
            d_ff: self.intermediate_size().into(),
            num_layers: model.num_layers.into(),
            num_decoder_layers: Some(decoder.into()),
            num_heads: model.num_heads.into(),
            dropout_rate: model.dropout,
            tie_word_embeddings: match model.head.0 {
                None => published.tie_word_embeddings,
                Some(head) => head == Head::Tied,
            },
            pad_token_id: pad.into(),
            eos_token_id: end.into(),
            overrides: self.overrides(),
            ..published
        }
    }

    /// Departures from the published form.
    fn overrides(&self) -> ArchitectureOverrides {
        let model = &self.model;
        ArchitectureOverrides {
            norm: model.norm.0,
            norm_placement: model.norm_placement.0,
            feed_forward: model.feed_forward.0,
            rotary: self.rotary(),
            kv_heads: (model.kv_heads > 0).then_some(model.kv_heads.into()),
            window: (model.window > 0).then_some(model.window.into()),
            qk_norm: model.qk_norm,
            zero_init_outputs: model.zero_init,
            no_biases: model.biases.0 == Some(Biases::None),
            logit_soft_cap: (model.logit_soft_cap != 0.0).then_some(model.logit_soft_cap),
        }
    }

    fn rotary(&self) -> Option<Rotary> {
        match self.model.positions {
            Positions::Published {} | Positions::Learned {} => None,
            Positions::Rope { theta } => Some(Rotary { theta, yarn: None }),
            Positions::Yarn { factor, original_length, theta } => {
                let length = match original_length {
                    0 => (f64::from(self.data.seq_len) / factor).round() as i64,
                    length => length.into(),
                };
                let yarn = Yarn {
                    factor,
                    original_max_position_embeddings: length,
                    // As published for Llama.
                    beta_fast: 32.0,
                    beta_slow: 1.0,
                    attention_factor: None,
                };
                Some(Rotary { theta, yarn: Some(yarn) })
            }
        }
    }

    /// Features inside a feed-forward layer.
    pub fn intermediate_size(&self) -> u32 {
        /// Features that a product's blocks divide.
        const STEP: u32 = 64;
        let model = &self.model;
        match (model.intermediate_size, model.is_gated()) {
            (0, false) => model.hidden_size.saturating_mul(4),
            // Three matrices then hold as much as two of four times the size.
            (0, true) => (model.hidden_size / 3 * 8 + model.hidden_size % 3 * 8 / 3)
                .checked_next_multiple_of(STEP)
                .unwrap_or(u32::MAX),
            (size, _) => size,
        }
    }

    /// Learned positions.
    pub fn max_positions(&self) -> u32 {
        match self.model.max_positions {
            0 => self.data.seq_len,
            positions => positions,
        }
    }
}

impl ModelConfig {
    /// Features of a head.
    pub fn head_size(&self) -> u32 {
        match self.head_size {
            0 => self.hidden_size / self.num_heads.max(1),
            size => size,
        }
    }

    /// The version of a T5.
    fn t5_form(&self) -> T5Form {
        self.t5_version.0.unwrap_or(T5Form::V1_1)
    }

    /// Whether the feed-forward half has a gate.
    fn is_gated(&self) -> bool {
        match self.feed_forward.0.map(FeedForwardKind::parts) {
            Some((_, gated)) => gated == Gated::Yes,
            None => self.family == Family::T5 && self.t5_form() == T5Form::V1_1,
        }
    }

    /// What the family can't take: the key and the reason.
    pub(super) fn refusal(&self) -> Option<(&'static str, &'static str)> {
        match self.family {
            Family::Bert | Family::Gpt => self.refusal_of_one_stack(),
            Family::T5 => self.refusal_of_t5(),
        }
    }

    fn refusal_of_one_stack(&self) -> Option<(&'static str, &'static str)> {
        let of_t5 = "only T5 has it; leave it out, or set model.family = \"t5\"";
        if self.t5_version.0.is_some() {
            Some(("model.t5_version", of_t5))
        } else if self.decoder_layers > 0 {
            Some(("model.decoder_layers", of_t5))
        } else if self.head_size > 0 {
            let reason = "only T5's heads have a size of their own; set 0";
            Some(("model.head_size", reason))
        } else if self.head.0 == Some(Head::Untied) {
            let reason = "the output matrix of BERT and GPT-2 is the token table, in transformers \
                          too; leave it out, or set \"tied\"";
            Some(("model.head", reason))
        } else if self.has_rotary() && self.max_positions > 0 {
            Some(("model.max_positions", "rotary positions have no table; set 0"))
        } else {
            None
        }
    }

    fn refusal_of_t5(&self) -> Option<(&'static str, &'static str)> {
        if matches!(self.positions, Positions::Learned {}) {
            let reason = "T5 has a relative bias and no table of positions; choose published, \
                          rope or yarn";
            Some(("model.positions", reason))
        } else if self.max_positions > 0 {
            Some(("model.max_positions", "T5 has no table of positions; set 0"))
        } else if self.biases.0.is_some() {
            Some(("model.biases", "T5 has none as published; leave it out"))
        } else if self.dropout != self.attention_dropout {
            let reason = "T5 has one rate for hidden values and attention weights; set it to \
                          that of model.dropout";
            Some(("model.attention_dropout", reason))
        } else {
            None
        }
    }

    fn has_rotary(&self) -> bool {
        matches!(self.positions, Positions::Rope { .. } | Positions::Yarn { .. })
    }
}

impl T5Form {
    fn version(self) -> T5Version {
        match self {
            Self::V1_0 => T5Version::V1_0,
            Self::V1_1 => T5Version::V1_1,
        }
    }
}
