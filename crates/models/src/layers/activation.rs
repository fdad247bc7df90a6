//! Activation functions, by our kernels or by libtorch's operations.

use bert4rs_kernels::activation as kernel;
use bert4rs_tensor_core::policy::Policy;
use bert4rs_tensor_core::{Result, Tensor};

pub use bert4rs_kernels::activation::Activation;

/// `activation` of `x`, times `gated` if there is one, by the backend that `policy` chooses. Shape
/// and dtype stay.
///
/// # Errors
/// What the kernel throws.
pub fn activate(
    policy: &Policy,
    activation: Activation,
    x: &Tensor,
    gated: Option<&Tensor>,
) -> Result<Tensor> {
    if kernel::supports(x) && policy.takes_own(activation.op(gated.is_some()), x) {
        return kernel::activate(activation, x, gated);
    }
    Ok(activation.forward_gated(x, gated))
}
