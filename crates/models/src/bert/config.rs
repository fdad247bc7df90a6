//! The configuration of BERT and its relatives, with the keys of transformers' `config.json`.

use serde::{Deserialize, Serialize};

use super::relatives::BertVariant;
use crate::check::{
    check_divides, check_layers, check_probabilities, check_scales, check_sizes, check_token,
};
use crate::error::{Error, Result};
use crate::layers::{Activation, Rotary};
use crate::overrides::ArchitectureOverrides;

/// What a BERT, or one of its [relatives](BertVariant), is made of. The fields are BERT's keys;
/// absent ones have the values of [`BertSize::Base`], as in transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Number of tokens.
    pub vocab_size: i64,
    /// Features of a token, a multiple of the number of heads.
    pub hidden_size: i64,
    /// Number of blocks.
    pub num_hidden_layers: i64,
    /// Number of attention heads.
    pub num_attention_heads: i64,
    /// Inner features of the feed-forward half.
    pub intermediate_size: i64,
    /// Activation of the feed-forward half and of the MLM head.
    pub hidden_act: Activation,
    /// Probability of dropping a feature, in training.
    pub hidden_dropout_prob: f64,
    /// Probability of dropping an attention weight, in training.
    pub attention_probs_dropout_prob: f64,
    /// The longest sequence.
    pub max_position_embeddings: i64,
    /// Number of token types: sentence A, sentence B. 0 in relatives that have none.
    pub type_vocab_size: i64,
    /// Standard deviation of matrices and tables at the start.
    pub initializer_range: f64,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
    /// The padding token, whose embedding gets no gradient from being looked up.
    pub pad_token_id: Option<i64>,
    /// Probability of dropping a feature before a classifier; `hidden_dropout_prob` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier_dropout: Option<f64>,
    /// Which member of the family it is: in files, the `model_type` says it.
    #[serde(skip)]
    pub variant: BertVariant,
    /// Departures from the published form.
    #[serde(rename = "bert4rs", skip_serializing_if = "ArchitectureOverrides::is_published")]
    pub overrides: ArchitectureOverrides,
}

/// The published sizes. Sources: arXiv 1810.04805 (base, large), 1908.08962 (the smaller ones).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BertSize {
    /// 2 layers of 128 features.
    Tiny,
    /// 4 layers of 256 features.
    Mini,
    /// 4 layers of 512 features.
    Small,
    /// 8 layers of 512 features.
    Medium,
    /// 12 layers of 768 features.
    Base,
    /// 24 layers of 1024 features.
    Large,
}

impl BertSize {
    /// Every size, smallest first.
    pub const ALL: [Self; 6] =
        [Self::Tiny, Self::Mini, Self::Small, Self::Medium, Self::Base, Self::Large];
}

impl Default for BertConfig {
    fn default() -> Self {
        Self::published(BertSize::Base)
    }
}

impl BertConfig {
    /// The uncased English model of this size, as published.
    pub fn published(size: BertSize) -> Self {
        let (num_hidden_layers, hidden_size) = match size {
            BertSize::Tiny => (2, 128),
            BertSize::Mini => (4, 256),
            BertSize::Small => (4, 512),
            BertSize::Medium => (8, 512),
            BertSize::Base => (12, 768),
            BertSize::Large => (24, 1024),
        };
        Self {
            vocab_size: 30522,
            hidden_size,
            num_hidden_layers,
            num_attention_heads: hidden_size / 64,
            intermediate_size: 4 * hidden_size,
            hidden_act: Activation::Gelu,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: Some(0),
            classifier_dropout: None,
            variant: BertVariant::Bert,
            overrides: ArchitectureOverrides::default(),
        }
    }

    /// Refuses what no model can have, naming key and value.
    pub fn validate(&self) -> Result<()> {
        check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("embedding_size", self.embedding_size()),
        ])?;
        check_layers("num_hidden_layers", self.num_hidden_layers)?;
        self.check_variant()?;
        check_divides(
            ("num_attention_heads", self.num_attention_heads),
            ("hidden_size", self.hidden_size),
        )?;
        check_probabilities(&[
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ])?;
        check_scales(&[
            ("initializer_range", self.initializer_range),
            ("layer_norm_eps", self.layer_norm_eps),
        ])?;
        check_token("pad_token_id", self.pad_token_id, self.vocab_size)?;
        self.overrides.validate(self.num_attention_heads, self.head_size())
    }

    /// Refuses what this member of the family can't have.
    fn check_variant(&self) -> Result<()> {
        match &self.variant {
            BertVariant::DistilBert { qa_dropout } => {
                return check_probabilities(&[("qa_dropout", *qa_dropout)]);
            }
            BertVariant::ModernBert(modern) => {
                check_sizes(&[("local_attention", modern.local_attention)])?;
                let (layers, listed) = (self.num_hidden_layers, modern.is_local.len());
                if usize::try_from(layers) != Ok(listed) {
                    let reason = format!("layer_types names {listed} layers");
                    return Err(Error::config("num_hidden_layers", layers, reason));
                }
                modern.global_rotary.validate(self.head_size())?;
                return modern.local_rotary.validate(self.head_size());
            }
            BertVariant::Roberta | BertVariant::XlmRoberta if self.longest() < 1 => {
                let reason = "leaves no position after those up to the padding token's";
                let positions = self.max_position_embeddings;
                return Err(Error::config("max_position_embeddings", positions, reason));
            }
            _ => {}
        }
        check_sizes(&[("type_vocab_size", self.type_vocab_size)])
    }

    /// Features of the tables of tokens, positions and token types.
    pub fn embedding_size(&self) -> i64 {
        match self.variant {
            BertVariant::Electra { embedding_size } => embedding_size,
            _ => self.hidden_size,
        }
    }

    /// The position of a text's first token: 0, but for RoBERTa and XLM-R, whose first positions,
    /// up to the padding token's, are never a text's.
    pub fn first_position(&self) -> i64 {
        match self.variant {
            BertVariant::Roberta | BertVariant::XlmRoberta => self.pad_token_id.unwrap_or(0) + 1,
            _ => 0,
        }
    }

    /// The most tokens of a sequence; with rotary positions, those that the model was made for.
    pub fn longest(&self) -> i64 {
        self.max_position_embeddings - self.first_position()
    }

    /// Rotary positions, of blocks whose tokens attend to all.
    pub fn rotary(&self) -> Option<Rotary> {
        self.overrides.rotary.or(self.variant.modern().map(|modern| modern.global_rotary))
    }

    /// Features of an attention head.
    pub fn head_size(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }
}
