//! The work of one optimizer step: from batches on the device to changed weights.

use bert4rs_optim::{Optimizer, StepReport};
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::profile::span;
use bert4rs_tensor_core::{Tensor, autograd};

use crate::error::Result;
use crate::gradients::Gradients;
use crate::task::Task;

/// A model, its parameters and their optimizer.
pub(crate) struct Work {
    pub(crate) task: Box<dyn Task>,
    pub(crate) params: ParamStore,
    /// The weights again, as gradients are asked for: in the store's order.
    weights: Vec<Tensor>,
    pub(crate) optimizer: Optimizer,
}

impl Work {
    pub(crate) fn new(task: Box<dyn Task>, params: ParamStore, optimizer: Optimizer) -> Self {
        let weights = params.params().iter().map(|param| param.weight.shallow_clone()).collect();
        Self { task, params, weights, optimizer }
    }

    /// A step whose gradients the host looks at. The mean loss of `batches` is a scalar on the
    /// device.
    pub(crate) fn step(
        &mut self,
        batches: &[Vec<Tensor>],
        lr_factor: f64,
    ) -> Result<(Tensor, StepReport)> {
        let (loss, gradients) = self.gradients(batches)?;
        let _optimizer = span("optimizer");
        let report = self.optimizer.step(self.params.params_mut(), &gradients, lr_factor)?;
        Ok((loss, report))
    }

    /// The same without a wait for the device.
    pub(crate) fn step_capturable(&mut self, batches: &[Vec<Tensor>]) -> Result<Tensor> {
        let (loss, gradients) = self.gradients(batches)?;
        let _optimizer = span("optimizer");
        self.optimizer.step_capturable(self.params.params_mut(), &gradients)?;
        Ok(loss)
    }

    /// The mean loss of `batches`, and its gradients.
    fn gradients(&self, batches: &[Vec<Tensor>]) -> Result<(Tensor, Vec<Tensor>)> {
        let mut gradients = Gradients::default();
        let mut losses = Vec::with_capacity(batches.len());
        for batch in batches {
            let forward = span("forward");
            let loss = self.task.loss(batch)? / batches.len() as f64;
            drop(forward);
            let _backward = span("backward");
            gradients.add(autograd::gradients(&loss, &self.weights)?)?;
            losses.push(loss.detach());
        }
        let loss = losses.into_iter().reduce(|sum, loss| sum + loss).unwrap_or_default();
        Ok((loss, gradients.into_tensors()))
    }
}
