//! Activation functions, by our kernels or by libtorch's operations.

use bert4rs_kernels::activation as kernel;
use bert4rs_tensor_core::param::Kernels;
use bert4rs_tensor_core::{Result, Tensor};

pub use bert4rs_kernels::activation::Activation;

/// `activation` of `x`, times `gated` if there is one, with such kernels. Shape and dtype stay.
///
/// # Errors
/// What the kernel throws.
pub fn activate(
    kernels: Kernels,
    activation: Activation,
    x: &Tensor,
    gated: Option<&Tensor>,
) -> Result<Tensor> {
    let is_fast = kernel::is_fast(activation, x.kind(), gated.is_some());
    if kernels == Kernels::Fused && kernel::supports(x) && is_fast {
        return kernel::activate(activation, x, gated);
    }
    Ok(activation.forward_gated(x, gated))
}
