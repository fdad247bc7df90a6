//! Activation checkpointing: a part of a model computed again for its backward pass instead of
//! kept in memory. Source: arXiv 1604.06174.

use tch::{Kind, Tensor, with_grad};

use super::{BackwardContext, ForwardContext, Function, apply_one};
use crate::error::{Context, Result};
use crate::random::RandomState;

/// Runs `body` on `inputs` without keeping what is computed in between: the backward pass runs it
/// again. Values and gradients are the same to the bit as of `body` alone, dropout included, where
/// `body` computes the same bits twice.
///
/// Where `body` draws random numbers, as dropout does, `drops` must say so: the generator's state
/// is then kept, which a step that is recorded as a CUDA graph can't do.
///
/// `weights` are all tensors beside `inputs` that `body` holds and that need gradients. `body`
/// returns one tensor.
///
/// # Errors
/// What `body` returns; in the backward pass too.
pub fn checkpoint<F>(
    inputs: &[&Tensor],
    weights: &[&Tensor],
    drops: bool,
    body: F,
) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
{
    let all: Vec<&Tensor> = inputs.iter().chain(weights).copied().collect();
    let function = Checkpoint { body, inputs: inputs.len(), drops, random: None };
    apply_one(function, &all)
}

const NAME: &str = "checkpoint";

struct Checkpoint<F> {
    body: F,
    /// How many of the tensors are inputs; the others are weights.
    inputs: usize,
    /// Whether the body draws random numbers.
    drops: bool,
    /// The generator's state before the first pass, if so.
    random: Option<RandomState>,
}

impl<F> Function for Checkpoint<F>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
{
    fn name(&self) -> &'static str {
        NAME
    }

    fn forward(&mut self, tensors: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        if let (true, Some(first)) = (self.drops, tensors.first()) {
            self.random = Some(RandomState::of(first.device())?);
        }
        tensors.iter().for_each(|tensor| ctx.save(tensor));
        let inputs: Vec<Tensor> =
            tensors[..self.inputs].iter().map(|input| input.shallow_clone()).collect();
        // With gradients on, since libtorch's choice of a kernel depends on it; the graph goes.
        let output = with_grad(|| (self.body)(&inputs))?;
        Ok(vec![output.detach()])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let saved = ctx.saved();
        let Some(grad) = &grads[0] else { return Ok(saved.iter().map(|_| None).collect()) };
        // Inputs become leaves of a graph of their own; weights are leaves already.
        let inputs: Vec<Tensor> = (0..self.inputs)
            .map(|index| saved[index].detach().set_requires_grad(ctx.needs(index)))
            .collect();
        let needed: Vec<usize> = (0..saved.len()).filter(|&index| ctx.needs(index)).collect();
        let leaves: Vec<&Tensor> =
            needed.iter().map(|&index| inputs.get(index).unwrap_or(&saved[index])).collect();
        let output = self.again(&inputs)?;
        // The gradient of this sum with respect to the output is `grad`, to the bit.
        let surrogate = with_grad(|| (output * grad).f_sum(Kind::Float)).during(NAME)?;
        let found = Tensor::f_run_backward(&[surrogate], &leaves, false, false).during(NAME)?;
        let mut gradients: Vec<Option<Tensor>> = saved.iter().map(|_| None).collect();
        for (index, gradient) in needed.into_iter().zip(found) {
            gradients[index] = gradient.defined().then_some(gradient);
        }
        Ok(gradients)
    }
}

impl<F> Checkpoint<F>
where
    F: Fn(&[Tensor]) -> Result<Tensor>,
{
    /// The body once more, with the random numbers of the first time.
    fn again(&self, inputs: &[Tensor]) -> Result<Tensor> {
        let Some(first) = &self.random else { return with_grad(|| (self.body)(inputs)) };
        let now = RandomState::of(first.device())?;
        first.restore()?;
        let output = with_grad(|| (self.body)(inputs));
        now.restore()?;
        output
    }
}
