//! The plain forms, in libtorch's operations.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Result, Tensor};

use super::{MuonKernelScalars, OP};

/// Moves `momentum` by `grad` and writes the update to `u`, not scaled to a norm: all of one shape
/// and one float dtype, on any device.
///
/// `scalars` are those of [`MuonKernelScalars`], each a tensor `[]` of that dtype; the factor on
/// the gradient must have acted on `grad`.
///
/// # Errors
/// What libtorch throws.
pub fn momentum_update_reference(
    scalars: &[Tensor; MuonKernelScalars::COUNT],
    nesterov: bool,
    grad: &Tensor,
    momentum: &mut Tensor,
    u: &mut Tensor,
) -> Result<()> {
    let [one_minus_momentum, ..] = scalars;
    let _ = momentum.f_lerp_tensor_(grad, one_minus_momentum).during(OP)?;
    if !nesterov {
        return u.f_copy_(momentum).during(OP);
    }
    let mu: Tensor = 1.0 - one_minus_momentum;
    u.f_copy_(&grad.f_lerp_tensor(momentum, &mu).during(OP)?).during(OP)
}

/// `p = p decay_factor - lr o`, of one shape and one float dtype, on any device. `o` is used up.
///
/// # Errors
/// What libtorch throws.
pub fn apply_update_reference(
    scalars: &[Tensor; MuonKernelScalars::COUNT],
    cautious: bool,
    o: &mut Tensor,
    p: &mut Tensor,
) -> Result<()> {
    let [_, _, lr, decay_factor] = scalars;
    if cautious {
        let disagree = o.f_mul(p).during(OP)?.f_lt(0.0).during(OP)?;
        let decay_factor = decay_factor.f_expand_as(&disagree).during(OP)?;
        let _ = p.f_mul_(&decay_factor.f_masked_fill(&disagree, 1.0).during(OP)?).during(OP)?;
    } else {
        let _ = p.f_mul_(decay_factor).during(OP)?;
    }
    let _ = o.f_mul_(lr).during(OP)?;
    let _ = p.f_sub_(o).during(OP)?;
    Ok(())
}
