//! The plain form, in libtorch's operations.

use bert4rs_tensor_core::Tensor;

use super::Angles;

impl Angles<'_> {
    /// [`rotate`](super::rotate) without a norm, of any float dtype and on any device: each pair of
    /// a head's features turned by its position's angle.
    pub fn forward(&self, x_bthe: &Tensor) -> Tensor {
        let halves = x_bthe.chunk(2, -1);
        let swapped_bthe = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
        x_bthe * self.cos + swapped_bthe * self.sin
    }
}
