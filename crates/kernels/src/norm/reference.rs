//! The plain forms, in libtorch's operations.

use bert4rs_tensor_core::Tensor;

use super::{NormArgs, NormKind};

impl NormArgs<'_> {
    /// The norm of `x`, `[.., features]`, of any float dtype and on any device.
    ///
    /// # Panics
    /// On shapes that don't fit, as `tch` does.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let features = self.weight.size();
        match self.norm_kind {
            NormKind::Layer => {
                x.layer_norm(features, Some(self.weight), self.bias, self.eps, false)
            }
            NormKind::Rms => x.rms_norm(features, Some(self.weight), self.eps),
        }
    }
}
