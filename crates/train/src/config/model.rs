//! The model's section: its shape, and its departures from the family's published form.

use bert4rs_models::layers::{FeedForwardKind, NormKind, Placement};
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Table;

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Bidirectional encoder, learning to fill in masked tokens.
    Bert,
    /// Causal decoder, learning the next token.
    Gpt,
    /// Encoder and decoder, learning to fill in spans.
    T5,
}

impl Family {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "BERT",
            Self::Gpt => "GPT",
            Self::T5 => "T5",
        }
    }
}

/// Shape of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The folder of the model whose weights training begins with; empty where they are drawn.
    pub init: String,
    /// The keys of that folder's `config.json`, and its `model_type`.
    pub file: Table,
    /// The family.
    pub family: Family,
    /// Entries of the vocabulary.
    pub vocab_size: u32,
    /// Features of a token.
    pub hidden_size: u32,
    /// Transformer blocks; of T5, those of the encoder.
    pub num_layers: u32,
    /// T5's decoder blocks; 0 means `num_layers`.
    pub decoder_layers: u32,
    /// Attention heads.
    pub num_heads: u32,
    /// T5's features of a head; 0 means `hidden_size / num_heads`.
    pub head_size: u32,
    /// Features inside a feed-forward layer; 0 means four times `hidden_size`, or 8/3 of it
    /// where a gate adds a third matrix.
    pub intermediate_size: u32,
    /// Learned positions; 0 means `data.seq_len`.
    pub max_positions: u32,
    /// Probability of dropping a hidden value in training.
    pub dropout: f64,
    /// Probability of dropping an attention weight in training.
    pub attention_dropout: f64,
    /// Which of T5's published forms: [`T5Form::V1_1`] if not said.
    pub t5_version: OrPublished<T5Form>,
    /// Which normalisation.
    pub norm: OrPublished<NormKind>,
    /// Where the normalisation stands.
    pub norm_placement: OrPublished<Placement>,
    /// The feed-forward half.
    pub feed_forward: OrPublished<FeedForwardKind>,
    /// How tokens know their places.
    pub positions: Positions,
    /// RMS norms of each head's queries and keys.
    pub qk_norm: bool,
    /// Heads of keys and values; 0 means `num_heads`.
    pub kv_heads: u32,
    /// A token sees others less than this many places away; 0 means all.
    pub window: u32,
    /// The last map of each half of a block starts at 0.
    pub zero_init: bool,
    /// Whether linear maps of blocks have biases.
    pub biases: OrPublished<Biases>,
    /// Logits `x` become `cap · tanh(x / cap)`; 0 means none.
    pub logit_soft_cap: f64,
    /// Whether the output matrix is the token table.
    pub head: OrPublished<Head>,
}

/// Which of T5's published forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum T5Form {
    /// ReLU, tied output.
    #[serde(rename = "v1.0", alias = "1.0")]
    V1_0,
    /// Gated GELU, untied output.
    #[serde(rename = "v1.1", alias = "1.1")]
    V1_1,
}

/// Whether linear maps of blocks have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Biases {
    /// They have none.
    None,
}

/// Whether the output matrix is the token table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// It is.
    Tied,
    /// It is a matrix of its own.
    Untied,
}

/// How tokens know their places.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Positions {
    /// As the family has it: a learned table, or T5's relative bias.
    Published {},
    /// A learned table.
    Learned {},
    /// Rotated queries and keys.
    Rope {
        /// The base of the wavelengths.
        #[serde(default = "published_theta")]
        theta: f64,
    },
    /// Rotations stretched from a shorter length.
    Yarn {
        /// How many times longer.
        factor: f64,
        /// The shorter length; 0 means `data.seq_len / factor`.
        #[serde(default)]
        original_length: u32,
        /// The base of the wavelengths.
        #[serde(default = "published_theta")]
        theta: f64,
    },
}

fn published_theta() -> f64 {
    10_000.0
}

/// A choice, or the family's published one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrPublished<T>(pub Option<T>);

const PUBLISHED: &str = "published";

impl<T: Serialize> Serialize for OrPublished<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(choice) => choice.serialize(to),
            None => to.serialize_str(PUBLISHED),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for OrPublished<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        if name == PUBLISHED {
            return Ok(Self(None));
        }
        let choice: Result<T, serde::de::value::Error> = T::deserialize(name.into_deserializer());
        choice.map(|choice| Self(Some(choice))).map_err(|error| {
            // "unknown variant `x`, expected `a` or `b`": ours is one more.
            D::Error::custom(format!("{error}, or `{PUBLISHED}`"))
        })
    }
}
