//! The work of one optimizer step: from batches on the device to changed weights.

use bert4rs_optim::{Optimizer, StepReport};
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::profile::span;
use bert4rs_tensor_core::{Tensor, autograd};

use crate::batch::NamedTensors;
use crate::error::Result;
use crate::gradients::Gradients;
use crate::task::Task;

/// A model, its parameters and their optimizer.
pub(crate) struct TrainStep {
    pub(crate) task: Box<dyn Task>,
    pub(crate) params: ParamStore,
    /// The weights again, as gradients are asked for: in the store's order.
    weights: Vec<Tensor>,
    pub(crate) optimizer: Optimizer,
}

impl TrainStep {
    pub(crate) fn new(task: Box<dyn Task>, params: ParamStore, optimizer: Optimizer) -> Self {
        let weights = params.params().iter().map(|param| param.weight.shallow_clone()).collect();
        Self { task, params, weights, optimizer }
    }

    /// A step whose gradients the host looks at. The loss is a scalar on the device.
    pub(crate) fn step(
        &mut self,
        batches: &[NamedTensors],
        divisor: &Tensor,
        lr_factor: f64,
    ) -> Result<(Tensor, StepReport)> {
        let (loss, gradients) = self.gradients(batches, divisor)?;
        let _optimizer = span("optimizer");
        let report = self.optimizer.step(self.params.params_mut(), &gradients, lr_factor)?;
        Ok((loss, report))
    }

    /// The same without a wait for the device.
    pub(crate) fn step_capturable(
        &mut self,
        batches: &[NamedTensors],
        divisor: &Tensor,
    ) -> Result<Tensor> {
        let (loss, gradients) = self.gradients(batches, divisor)?;
        let _optimizer = span("optimizer");
        self.optimizer.step_capturable(self.params.params_mut(), &gradients)?;
        Ok(loss)
    }

    /// The mean loss over the labels of all `batches`, which are `divisor` in number, and its
    /// gradients.
    ///
    /// Each batch's loss is its sum over the number of labels of all, so that sums of losses and
    /// of gradients are those of one large batch.
    pub(crate) fn gradients(
        &self,
        batches: &[NamedTensors],
        divisor: &Tensor,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let mut gradients = Gradients::default();
        let mut losses = Vec::with_capacity(batches.len());
        for batch in batches {
            let forward = span("forward");
            let loss = self.task.loss(batch, divisor)?;
            drop(forward);
            let _backward = span("backward");
            gradients.add(autograd::gradients(&loss, &self.weights)?)?;
            losses.push(loss.detach());
        }
        let loss = losses.into_iter().reduce(|sum, loss| sum + loss).unwrap_or_default();
        Ok((loss, gradients.into_tensors()))
    }
}

#[cfg(test)]
mod tests;
