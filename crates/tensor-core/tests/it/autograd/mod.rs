//! Custom autograd functions.

mod checkpoint;
mod failures;
mod gradients;
mod in_place;
mod lifetime;
mod threads;

use bert4rs_tensor_core::autograd::{BackwardContext, ForwardContext, Function, apply};
use bert4rs_tensor_core::{Result, Tensor};

/// A function made of two closures. The token is dropped with it.
struct Closures<F, B, T> {
    forward: F,
    backward: B,
    twice_differentiable: bool,
    _token: T,
}

impl<F, B, T> Function for Closures<F, B, T>
where
    F: FnMut(&[&Tensor], &mut ForwardContext) -> Result<Vec<Tensor>> + Send + 'static,
    B: Fn(&BackwardContext, &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    T: Send + 'static,
{
    fn name(&self) -> &'static str {
        "closures"
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        (self.forward)(inputs, ctx)
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        (self.backward)(ctx, grads)
    }

    fn twice_differentiable(&self) -> bool {
        self.twice_differentiable
    }
}

/// Applies a function made of two closures.
fn call<F, B>(inputs: &[&Tensor], forward: F, backward: B) -> Result<Vec<Tensor>>
where
    F: FnMut(&[&Tensor], &mut ForwardContext) -> Result<Vec<Tensor>> + Send + 'static,
    B: Fn(&BackwardContext, &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> + Send + 'static,
{
    apply(Closures { forward, backward, twice_differentiable: false, _token: () }, inputs)
}

/// `x²`, with its input saved and `token` held.
fn square_holding<T: Send + 'static>(x: &Tensor, token: T) -> Result<Tensor> {
    let function = Closures {
        forward: |inputs: &[&Tensor], ctx: &mut ForwardContext| {
            ctx.save(inputs[0]);
            Ok(vec![inputs[0] * inputs[0]])
        },
        backward: |ctx: &BackwardContext, grads: &[Option<Tensor>]| {
            Ok(vec![grads[0].as_ref().map(|grad| grad * &ctx.saved()[0] * 2.0)])
        },
        twice_differentiable: true,
        _token: token,
    };
    Ok(apply(function, &[x])?.remove(0))
}

/// `x²`.
fn square(x: &Tensor) -> Result<Tensor> {
    square_holding(x, ())
}

/// The gradient of `y`'s sum with respect to `x`.
fn gradient(y: &Tensor, x: &Tensor) -> std::result::Result<Tensor, tch::TchError> {
    gradient_keeping(y, x, false)
}

/// As [`gradient`], with the graph kept or not.
fn gradient_keeping(
    y: &Tensor,
    x: &Tensor,
    keep_graph: bool,
) -> std::result::Result<Tensor, tch::TchError> {
    let mut grads = Tensor::f_run_backward(&[y.sum(y.kind())], &[x], keep_graph, false)?;
    Ok(grads.remove(0))
}
