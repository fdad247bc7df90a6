//! The work of one optimizer step: from batches on the device to changed weights.

use bert4rs_optim::sharding::StepGradients;
use bert4rs_optim::{DataParallel, StepReport};
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::profile::span;
use bert4rs_tensor_core::{Tensor, autograd};

use crate::batch::NamedTensors;
use crate::distributed::MeteredGroup;
use crate::error::Result;
use crate::gradients::Gradients;
use crate::task::Task;

/// A model, its parameters and their optimizer.
pub(crate) struct TrainStep {
    pub(crate) task: Box<dyn Task>,
    pub(crate) params: ParamStore,
    /// The weights again that gradients are asked for: in the store's order, without frozen ones.
    weights: Vec<Tensor>,
    /// Which parameters are frozen.
    frozen: Vec<bool>,
    pub(crate) optimizer: DataParallel,
    /// The processes whose gradients add up.
    pub(crate) group: MeteredGroup,
}

impl TrainStep {
    /// For a process alone.
    pub(crate) fn new(task: Box<dyn Task>, params: ParamStore, optimizer: DataParallel) -> Self {
        let frozen = optimizer.frozen();
        let weights = params
            .params()
            .iter()
            .zip(&frozen)
            .filter(|(_, frozen)| !**frozen)
            .map(|(param, _)| param.weight.shallow_clone())
            .collect();
        Self { task, params, weights, frozen, optimizer, group: MeteredGroup::alone() }
    }

    /// A step whose gradients the host looks at. The loss is a scalar on the device. One that
    /// `accept` does not let through changes nothing, and has no report.
    pub(crate) fn step(
        &mut self,
        batches: &[NamedTensors],
        divisor: &Tensor,
        lr_factor: f64,
        accept: impl FnOnce(&Tensor) -> Result<bool>,
    ) -> Result<(Tensor, Option<StepReport>)> {
        let (loss, gradients) = match self.optimizer.shards_gradients() {
            true => self.reduced_gradients(batches, divisor)?,
            false => {
                let (loss, gradients) = self.gradients(batches, divisor)?;
                (loss, StepGradients::Own(gradients))
            }
        };
        if !accept(&loss)? {
            return Ok((loss, None));
        }
        let _optimizer = span("optimizer");
        let (group, params) = (&self.group, self.params.params_mut());
        let report = self.optimizer.step(group, params, gradients, lr_factor)?;
        Ok((loss, Some(report)))
    }

    /// The same without a wait for the device.
    pub(crate) fn step_capturable(
        &mut self,
        batches: &[NamedTensors],
        divisor: &Tensor,
    ) -> Result<Tensor> {
        let (loss, gradients) = self.gradients(batches, divisor)?;
        let _optimizer = span("optimizer");
        self.optimizer.local_mut().step_capturable(self.params.params_mut(), &gradients)?;
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
        let loss = self.each_gradient(batches, divisor, |batch| gradients.add(batch))?;
        Ok((loss, gradients.into_tensors()))
    }

    /// The same with each batch's gradients summed over ranks at once, so that only what this rank
    /// owns is kept.
    fn reduced_gradients(
        &self,
        batches: &[NamedTensors],
        divisor: &Tensor,
    ) -> Result<(Tensor, StepGradients)> {
        let mut sum: Option<StepGradients> = None;
        let loss = self.each_gradient(batches, divisor, |batch| {
            let reduced = self.optimizer.reduce(&self.group, batch)?;
            match &mut sum {
                Some(sum) => sum.add(reduced)?,
                None => sum = Some(reduced),
            }
            Ok(())
        })?;
        Ok((loss, sum.unwrap_or(StepGradients::Own(Vec::new()))))
    }

    /// Gives `take` the gradients of one batch after the other, and returns the sum of losses.
    fn each_gradient(
        &self,
        batches: &[NamedTensors],
        divisor: &Tensor,
        mut take: impl FnMut(Vec<Tensor>) -> Result<()>,
    ) -> Result<Tensor> {
        let mut losses = Vec::with_capacity(batches.len());
        for batch in batches {
            let forward = span("forward");
            let loss = self.task.loss(batch, divisor)?;
            drop(forward);
            let _backward = span("backward");
            take(self.with_frozen(autograd::gradients(&loss, &self.weights)?))?;
            losses.push(loss.detach());
        }
        Ok(losses.into_iter().reduce(|sum, loss| sum + loss).unwrap_or_default())
    }

    /// A gradient for each parameter, undefined for frozen ones.
    fn with_frozen(&self, gradients: Vec<Tensor>) -> Vec<Tensor> {
        let mut trained = gradients.into_iter();
        let of = |frozen: &bool| if *frozen { None } else { trained.next() };
        self.frozen.iter().map(of).map(Option::unwrap_or_default).collect()
    }
}

#[cfg(test)]
mod tests;
