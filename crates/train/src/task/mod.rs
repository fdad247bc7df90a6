//! What a family learns: its batches, its loss, and how its model is kept.

pub mod causal_lm;
pub mod masked_lm;
mod source;
pub mod span_corruption;

use std::path::Path;
use std::time::Duration;

use bert4rs_models::layers::AttentionBackend;
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::param::ParamStore;

use crate::error::{Error, Result};

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

/// A batch on its device.
#[derive(Debug)]
pub struct Batch {
    /// What [`Task::loss`] reads, in the task's own order.
    pub tensors: Vec<Tensor>,
    /// How much it holds.
    pub size: BatchSize,
}

/// A model together with the data and the objective that train it.
pub trait Task {
    /// The next batch to train on.
    ///
    /// # Errors
    /// What making a batch can meet.
    fn next_batch(&mut self) -> Result<Batch>;

    /// The loss of a batch's tensors, dropout included: a scalar in FP32 that gradients can be
    /// taken of. Waits for no device.
    ///
    /// # Errors
    /// Tensors of another task, and what libtorch throws.
    fn loss(&self, tensors: &[Tensor]) -> Result<Tensor>;

    /// Mean loss over held-out sequences, `None` where none are to be measured.
    fn held_out_loss(&self) -> Result<Option<f64>>;

    /// Writes the model as Hugging Face's files, from the exact values in `params`.
    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()>;

    /// The code that computed attention; absent before the first loss.
    fn attention_backend(&self) -> Option<AttentionBackend>;

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

/// The error for tensors that are not those of the task's own batches.
fn not_a_batch(tensors: &[Tensor]) -> Error {
    bert4rs_tensor_core::Error::Unsupported {
        what: format!("a batch of {} tensors", tensors.len()),
        reason: "this task makes others".into(),
    }
    .into()
}
