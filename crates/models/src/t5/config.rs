//! T5's configuration, with the keys of transformers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::check::{check_layers, check_probabilities, check_scales, check_sizes, check_token};
use crate::error::{Error, Result};
use crate::layers::Activation;
use crate::layers::feed_forward::Gated;
use crate::overrides::ArchitectureOverrides;

/// What a T5 is made of. Keys that are absent from a file have the values of v1.0's
/// [`T5Size::Small`], as in transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct T5Config {
    /// Number of tokens.
    pub vocab_size: i64,
    /// Features of a token.
    pub d_model: i64,
    /// Features of an attention head; heads times these need not be `d_model`.
    pub d_kv: i64,
    /// Inner features of the feed-forward half.
    pub d_ff: i64,
    /// Number of the encoder's blocks.
    pub num_layers: i64,
    /// Number of the decoder's blocks; `num_layers` if absent.
    pub num_decoder_layers: Option<i64>,
    /// Number of attention heads.
    pub num_heads: i64,
    /// Entries of the table of relative positions.
    pub relative_attention_num_buckets: i64,
    /// Distance from which all positions share an entry.
    pub relative_attention_max_distance: i64,
    /// Probability of dropping a feature or an attention weight, in training.
    pub dropout_rate: f64,
    /// Of an attention weight alone; `dropout_rate` if absent, as in transformers, which does not
    /// know this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_dropout_rate: Option<f64>,
    /// Of what a classifier reads; 0 if absent, as in transformers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier_dropout: Option<f64>,
    /// Added to the mean square in norms.
    pub layer_norm_epsilon: f64,
    /// Multiplies all standard deviations at the start.
    pub initializer_factor: f64,
    /// The feed-forward half: an activation, or `gated-` and an activation. `gated-gelu` means
    /// GELU by `tanh`, as in transformers.
    pub feed_forward_proj: String,
    /// Whether the output matrix is the token table.
    pub tie_word_embeddings: bool,
    /// Whether the decoder's result is divided by the root of `d_model` before the output
    /// matrix; if absent, it is where that is tied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_decoder_outputs: Option<bool>,
    /// The padding token, with which the decoder also starts.
    pub pad_token_id: i64,
    /// The token that ends a text.
    pub eos_token_id: i64,
    /// Departures from T5 as published.
    #[serde(rename = "bert4rs", skip_serializing_if = "ArchitectureOverrides::is_published")]
    pub overrides: ArchitectureOverrides,
}

/// The published sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum T5Size {
    /// 60 M parameters.
    #[serde(rename = "small")]
    Small,
    /// 220 M parameters.
    #[serde(rename = "base")]
    Base,
    /// 770 M parameters.
    #[serde(rename = "large")]
    Large,
    /// 3 B parameters, `3b` of v1.0 and `xl` of v1.1.
    #[serde(rename = "xl", alias = "3b")]
    Xl,
    /// 11 B parameters, `11b` of v1.0 and `xxl` of v1.1.
    #[serde(rename = "xxl", alias = "11b")]
    Xxl,
}

impl T5Size {
    /// Every size, smallest first.
    pub const ALL: [Self; 5] = [Self::Small, Self::Base, Self::Large, Self::Xl, Self::Xxl];
}

/// The published versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum T5Version {
    /// ReLU, tied output. Source: arXiv 1910.10683.
    #[serde(rename = "1.0")]
    V1_0,
    /// Gated GELU, untied output (t5x, "T5 v1.1").
    #[serde(rename = "1.1")]
    V1_1,
}

impl Default for T5Config {
    fn default() -> Self {
        Self::published(T5Version::V1_0, T5Size::Small)
    }
}

impl T5Config {
    /// T5 of this version and size, as published.
    pub fn published(version: T5Version, size: T5Size) -> Self {
        let (num_layers, d_model, num_heads, d_kv, d_ff) = match (version, size) {
            (T5Version::V1_0, T5Size::Small) => (6, 512, 8, 64, 2048),
            (T5Version::V1_0, T5Size::Base) => (12, 768, 12, 64, 3072),
            (T5Version::V1_0, T5Size::Large) => (24, 1024, 16, 64, 4096),
            (T5Version::V1_0, T5Size::Xl) => (24, 1024, 32, 128, 16384),
            (T5Version::V1_0, T5Size::Xxl) => (24, 1024, 128, 128, 65536),
            (T5Version::V1_1, T5Size::Small) => (8, 512, 6, 64, 1024),
            (T5Version::V1_1, T5Size::Base) => (12, 768, 12, 64, 2048),
            (T5Version::V1_1, T5Size::Large) => (24, 1024, 16, 64, 2816),
            (T5Version::V1_1, T5Size::Xl) => (24, 2048, 32, 64, 5120),
            (T5Version::V1_1, T5Size::Xxl) => (24, 4096, 64, 64, 10240),
        };
        let (feed_forward_proj, tie_word_embeddings) = match version {
            T5Version::V1_0 => ("relu", true),
            T5Version::V1_1 => ("gated-gelu", false),
        };
        Self {
            vocab_size: 32128,
            d_model,
            d_kv,
            d_ff,
            num_layers,
            num_decoder_layers: None,
            num_heads,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: 0.1,
            attention_dropout_rate: None,
            classifier_dropout: None,
            layer_norm_epsilon: 1e-6,
            initializer_factor: 1.0,
            feed_forward_proj: feed_forward_proj.into(),
            tie_word_embeddings,
            scale_decoder_outputs: None,
            pad_token_id: 0,
            eos_token_id: 1,
            overrides: ArchitectureOverrides::default(),
        }
    }

    /// Refuses what no model can have, naming key and value.
    pub fn validate(&self) -> Result<()> {
        check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_heads", self.num_heads),
        ])?;
        check_layers("num_layers", self.num_layers)?;
        check_layers("num_decoder_layers", self.decoder_layers())?;
        let buckets = self.relative_attention_num_buckets;
        if buckets < 4 || buckets % 2 != 0 {
            let reason = "must be even and at least 4: half for each direction";
            return Err(Error::config("relative_attention_num_buckets", buckets, reason));
        }
        let distance = self.relative_attention_max_distance;
        if distance <= buckets / 2 {
            let reason = format!("must be above half of the buckets, {}", buckets / 2);
            return Err(Error::config("relative_attention_max_distance", distance, reason));
        }
        check_probabilities(&[
            ("dropout_rate", self.dropout_rate),
            ("attention_dropout_rate", self.attention_dropout()),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ])?;
        check_scales(&[
            ("layer_norm_epsilon", self.layer_norm_epsilon),
            ("initializer_factor", self.initializer_factor),
        ])?;
        check_token("pad_token_id", Some(self.pad_token_id), self.vocab_size)?;
        check_token("eos_token_id", Some(self.eos_token_id), self.vocab_size)?;
        self.feed_forward_parts()?;
        if self.overrides.no_biases {
            return Err(Error::config("no_biases", true, "T5 has none as published; leave it out"));
        }
        self.overrides.validate(self.num_heads, self.d_kv)
    }

    /// Number of the decoder's blocks.
    pub fn decoder_layers(&self) -> i64 {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// Probability of dropping an attention weight.
    pub fn attention_dropout(&self) -> f64 {
        self.attention_dropout_rate.unwrap_or(self.dropout_rate)
    }

    /// Whether the decoder's result is scaled down before the output matrix.
    pub fn scales_decoder_outputs(&self) -> bool {
        self.scale_decoder_outputs.unwrap_or(self.tie_word_embeddings)
    }

    /// The activation of the feed-forward half, and whether it is a gate.
    pub(super) fn feed_forward_parts(&self) -> Result<(Activation, Gated)> {
        if let Some(kind) = self.overrides.feed_forward {
            return Ok(kind.parts());
        }
        let proj = self.feed_forward_proj.as_str();
        if proj == "gated-gelu" {
            return Ok((Activation::GeluTanh, Gated::Yes));
        }
        let (name, gated) = match proj.strip_prefix("gated-") {
            Some(name) => (name, Gated::Yes),
            None => (proj, Gated::No),
        };
        match Activation::named(name) {
            Some(activation) => Ok((activation, gated)),
            None => {
                let reason = "must be relu, gelu, gelu_new, relu2 or silu, or gated- and one of \
                              them";
                Err(Error::config("feed_forward_proj", proj, reason))
            }
        }
    }
}
