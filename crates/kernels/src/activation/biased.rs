//! An activation with the bias before it, `f(x + b)`, on a GPU: the backward pass makes the
//! gradients of both in one pass over memory, where libtorch reads that of `x` once more to add up
//! that of `b`.

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
use bert4rs_tensor_core::{Device, Error, Result, Tensor};

use super::{Activation, activate, cuda};

/// `f(x + bias)`, with `x` `[.., f]` and `bias` `[f]` of one dtype, FP32 or BF16. One pass each way
/// where `x` lies on a GPU and `f` is a multiple of 8; else the sum, and [`activate`].
///
/// # Errors
/// Shapes and dtypes that don't fit, and those of [`activate`].
pub fn activate_biased(activation: Activation, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let features = x.size().last().copied().unwrap_or(0);
    if bias.size() != [features] || bias.kind() != x.kind() {
        let expected = format!("[{features}] of {:?}", x.kind());
        return Err(Error::Shape {
            op: "activation with a bias",
            tensor: "bias",
            found: bias.size(),
            expected,
        });
    }
    if x.device() == Device::Cpu || features % 8 != 0 {
        return activate(activation, &(x + bias), None);
    }
    autograd::apply_one(ActivateBiased { activation }, &[x, bias])
}

struct ActivateBiased {
    activation: Activation,
}

impl Function for ActivateBiased {
    fn name(&self) -> &'static str {
        "activation with a bias"
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        let [x, bias] = [inputs[0].contiguous(), inputs[1].contiguous()];
        [&x, &bias].into_iter().for_each(|input| ctx.save(input));
        Ok(vec![cuda::forward_biased(self.activation, &x, &bias)?])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(grad) = &grads[0] else { return Ok(vec![None, None]) };
        let saved = ctx.saved();
        let (dx, db) =
            cuda::backward_biased(self.activation, &saved[0], &saved[1], &grad.contiguous())?;
        Ok(vec![Some(dx), Some(db)])
    }
}
