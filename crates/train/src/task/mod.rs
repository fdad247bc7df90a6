//! What a family learns: its batches, its loss, and how its model is kept.

pub mod masked_lm;

use std::path::Path;
use std::time::Duration;

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::param::ParamStore;

use crate::error::Result;

/// A model together with the data and the objective that train it.
pub trait Task {
    /// The loss of the next batch: a scalar in FP32 that gradients can be taken of.
    fn next_loss(&mut self) -> Result<Tensor>;

    /// Mean loss over held-out sequences, `None` where none are to be measured.
    fn held_out_loss(&self) -> Result<Option<f64>>;

    /// Writes the model as Hugging Face's files, from the exact values in `params`.
    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()>;

    /// Time spent waiting for batches.
    fn waited(&self) -> Duration;

    /// Useful matrix-product FLOPs of one token, forward and backward.
    fn flops_per_token(&self) -> f64;

    /// What predicting held-out tokens by their frequency alone would cost, in nats.
    fn unigram_entropy(&self) -> f64;

    /// Lines that say what is learned from.
    fn describe(&self) -> Vec<String>;
}
