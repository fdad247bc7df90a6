//! The plain forms, in libtorch's operations.

use bert4rs_tensor_core::Tensor;

use super::Activation;

impl Activation {
    /// `f(x)`, elementwise; shape and dtype stay.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
            Self::Relu => x.relu(),
            Self::ReluSquared => x.relu().square(),
            Self::Silu => x.silu(),
        }
    }

    /// [`forward`](Self::forward), times `gated` if there is one.
    pub fn forward_gated(self, x: &Tensor, gated: Option<&Tensor>) -> Tensor {
        match gated {
            Some(gated) => self.forward(x) * gated,
            None => self.forward(x),
        }
    }
}
