//! What is learned: a model, its loss, what is measured of it, and how it is kept.

pub mod causal_lm;
pub mod masked_lm;
pub mod span_corruption;

use std::path::Path;

use bert4rs_models::layers::AttentionBackend;
use bert4rs_models::loss::PredictionScore;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::batch::NamedTensors;
use crate::error::Result;

/// A model and its objective.
pub trait Task {
    /// The losses of the batch's labels, summed and divided by `divisor`: a scalar in FP32 that
    /// gradients can be taken of. Dropout acts. Waits for no device.
    ///
    /// `divisor` is I64 `[]` on the device: the number of labels in all batches whose gradients
    /// one step adds up. Dividing each batch's sum by it gives the mean over all of them, however
    /// unlike the batches are.
    ///
    /// # Errors
    /// Tensors of another task, and what libtorch throws.
    fn loss(&self, batch: &NamedTensors, divisor: &Tensor) -> Result<Tensor>;

    /// Sums over the batch's labels of what is to be measured, by name: scalars on the device.
    /// `loss` is one of them. No dropout and no gradients. Nothing unless implemented.
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    fn evaluate(&self, batch: &NamedTensors) -> Result<Vec<(&'static str, Tensor)>> {
        let _ = batch;
        Ok(Vec::new())
    }

    /// Writes the model to `folder`, from the exact values in `params`. Nothing unless
    /// implemented.
    ///
    /// # Errors
    /// What the system says.
    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        let (_, _) = (folder, params);
        Ok(())
    }

    /// The code that computed attention; absent before the first loss, and without attention.
    fn attention_backend(&self) -> Option<AttentionBackend> {
        None
    }
}

/// What [`Task::loss`] is divided by: a number of labels as I64 `[]`, made on the device, so that
/// the host does not wait for it.
pub(crate) fn divisor(labels: u64, device: Device) -> Result<Tensor> {
    let place = (Kind::Int64, device);
    Ok(Tensor::f_full([0i64; 0], labels as i64, place).during("count labels")?)
}

/// What [`Task::evaluate`] gives of a language model: sums over labels.
pub(crate) fn sums(score: PredictionScore) -> Vec<(&'static str, Tensor)> {
    vec![("loss", score.loss), ("accuracy", score.correct)]
}
