//! The configuration of a run: what each key means, and which values can be used together.
//!
//! Defaults are not written here: they are `presets/baseline.toml`, which [`resolve`] lays
//! presets, files and flags over.

mod layers;
mod validate;

pub use layers::{Layer, known_keys, parse_assignment, resolve};

use bert4rs_optim::OptimizerConfig;
use bert4rs_optim::schedule::ScheduleConfig;
use bert4rs_tensor_core::attention;
use bert4rs_tensor_core::precision::Precision;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// All that decides a run. Written whole to the run's folder, it repeats the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seeds weights, data order, masks and dropout.
    pub seed: u64,
    /// The model.
    pub model: ModelConfig,
    /// Where and how numbers are computed.
    pub compute: ComputeConfig,
    /// What is learned from.
    pub data: DataConfig,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// The loop.
    pub train: LoopConfig,
}

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Bidirectional encoder, learning to fill in masked tokens.
    Bert,
}

/// Shape of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The family.
    pub family: Family,
    /// Entries of the vocabulary.
    pub vocab_size: u32,
    /// Features of a token.
    pub hidden_size: u32,
    /// Transformer blocks.
    pub num_layers: u32,
    /// Attention heads; divides `hidden_size`.
    pub num_heads: u32,
    /// Features inside a feed-forward layer; 0 means four times `hidden_size`.
    pub intermediate_size: u32,
    /// Learned positions; 0 means `data.seq_len`.
    pub max_positions: u32,
    /// Probability of dropping a hidden value in training.
    pub dropout: f64,
    /// Probability of dropping an attention weight in training.
    pub attention_dropout: f64,
}

/// Which tokens the output layer computes logits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogitsOf {
    /// Every token, whether its loss counts or not.
    All,
    /// Masked tokens only: the same loss and gradients.
    Masked,
}

/// Where and how numbers are computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeConfig {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Dtypes of weights and activations.
    pub precision: Precision,
    /// Which code computes attention.
    pub attention: attention::Implementation,
    /// Which tokens get logits.
    pub logits: LogitsOf,
    /// CPU threads; 0 means one a core.
    pub threads: u32,
}

/// What is learned from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Text files, or folders of `.txt` files.
    pub corpus: Vec<String>,
    /// `train`, or the path of a tokenizer.
    pub tokenizer: String,
    /// Tokens of a sequence.
    pub seq_len: u32,
    /// Sequences of a batch.
    pub batch_size: u32,
    /// Share of tokens to predict.
    pub mask_rate: f64,
    /// Share of documents kept apart.
    pub held_out: f64,
    /// Batches made ahead; 0 makes each in the loop.
    pub prefetch: u32,
    /// Threads that make batches ahead.
    pub workers: u32,
}

/// The loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoopConfig {
    /// Optimizer steps.
    pub max_steps: u64,
    /// Batches a step.
    pub accumulate: u32,
    /// Steps between two lines on the terminal.
    pub log_every: u64,
    /// Held-out sequences to measure the loss on at the end; 0 measures nothing.
    pub eval_sequences: u32,
}

impl Config {
    /// The configuration as a TOML file that [`resolve`] reads back to an equal one.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|error| Error::Toml {
            origin: "the configuration".into(),
            reason: error.to_string(),
        })
    }

    /// Tokens of one optimizer step.
    pub fn tokens_per_step(&self) -> u64 {
        let data = &self.data;
        u64::from(data.seq_len) * u64::from(data.batch_size) * u64::from(self.train.accumulate)
    }

    /// Features inside a feed-forward layer.
    pub fn intermediate_size(&self) -> u32 {
        match self.model.intermediate_size {
            0 => self.model.hidden_size.saturating_mul(4),
            size => size,
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
