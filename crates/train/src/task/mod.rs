//! What a family learns: its batches, its loss, and how its model is kept.

pub mod causal_lm;
pub mod masked_lm;
mod source;
pub mod span_corruption;

use std::path::Path;
use std::time::Duration;

use bert4rs_models::layers::Tier;
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::param::ParamStore;

use crate::error::Result;

/// How much a batch holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchSize {
    /// Real tokens: all but padding.
    pub tokens: u64,
    /// Places that the model computes, padding included.
    pub slots: u64,
}

impl std::ops::AddAssign for BatchSize {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.slots += other.slots;
    }
}

/// The loss of a batch.
#[derive(Debug)]
pub struct BatchLoss {
    /// A scalar in FP32 that gradients can be taken of.
    pub loss: Tensor,
    /// How much it is the loss of.
    pub size: BatchSize,
}

/// A model together with the data and the objective that train it.
pub trait Task {
    /// The loss of the next batch.
    fn next_loss(&mut self) -> Result<BatchLoss>;

    /// Mean loss over held-out sequences, `None` where none are to be measured.
    fn held_out_loss(&self) -> Result<Option<f64>>;

    /// Writes the model as Hugging Face's files, from the exact values in `params`.
    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()>;

    /// The code that computed attention; absent before the first loss.
    fn attention_tier(&self) -> Option<Tier>;

    /// A hash of all batches so far, in their order; see
    /// [`Summary::data_fingerprint`](crate::metrics::Summary::data_fingerprint).
    fn data_fingerprint(&self) -> u64;

    /// Batch number `index`, counted from 0, by the names of its tensors.
    ///
    /// # Errors
    /// What making a batch can meet.
    fn batch(&self, index: u64) -> Result<Vec<(&'static str, Tensor)>>;

    /// Time spent waiting for batches.
    fn waited(&self) -> Duration;

    /// Useful matrix-product FLOPs of one real token, forward and backward.
    fn flops_per_token(&self) -> f64;

    /// Entropy of the labels' frequencies, in nats: the loss of knowing these alone.
    fn unigram_entropy(&self) -> f64;

    /// Lines that say what is learned from.
    fn describe(&self) -> Vec<String>;
}
