//! The plain form, in libtorch's operations.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Result, Tensor};

use super::{AdamwKernelScalars, OP};

/// One step for one parameter, of any float dtype and on any device: changes `exact`, the weight,
/// and its moments, the first and the second.
///
/// `scalars` are those of [`AdamwKernelScalars`], each a tensor `[]` of the dtype of `exact`; the
/// factor on the gradient must have acted on `grad`, of that dtype too. The order of operations is
/// that of `torch.optim.AdamW`, but that a factor stands for its division by a root.
///
/// # Errors
/// What libtorch throws.
pub fn step_reference(
    scalars: [Tensor; AdamwKernelScalars::COUNT],
    cautious: bool,
    grad: &Tensor,
    [moment1, moment2]: [&mut Tensor; 2],
    exact: &mut Tensor,
) -> Result<()> {
    let [_, moved1, beta2, moved2, inverse_sqrt_correction2, eps, decay_factor, step_size] =
        scalars;
    let _guard = bert4rs_tensor_core::no_grad_guard();
    let _ = moment1.f_lerp_tensor_(grad, &moved1).during(OP)?;
    let grad_squared = grad.f_square().during(OP)? * moved2;
    let _ = moment2.f_mul_(&beta2).during(OP)?.f_add_(&grad_squared).during(OP)?;
    let denominator = moment2.f_sqrt().during(OP)? * inverse_sqrt_correction2 + eps;
    let direction = moment1.f_div(&denominator).during(OP)?;
    if cautious {
        let disagree = (&direction * &*exact).f_le(0.0).during(OP)?;
        let decay_factor = decay_factor.f_expand_as(&disagree).during(OP)?;
        let _ = exact.f_mul_(&decay_factor.f_masked_fill(&disagree, 1.0).during(OP)?).during(OP)?;
    } else {
        let _ = exact.f_mul_(&decay_factor).during(OP)?;
    }
    let _ = exact.f_sub_(&(direction * step_size)).during(OP)?;
    Ok(())
}
