//! Low-rank adapters of linear maps (LoRA, arXiv 2106.09685): beside a weight that stays as it is,
//! the product of two small ones learns.

use bert4rs_tensor_core::Tensor;

use super::Dropout;

/// `scale · drop(x) Aᵀ Bᵀ`, which is added to a map's `x Wᵀ`. A clone has the same parameters.
#[derive(Debug)]
pub struct LowRankAdapter {
    /// `A`, `[rank, inputs]`.
    pub down: Tensor,
    /// `B`, `[outputs, rank]`; 0 at first, so that the map is what it was.
    pub up: Tensor,
    /// `alpha / rank`.
    pub scale: f64,
    /// Of what the adapter reads.
    pub dropout: Dropout,
}

impl Clone for LowRankAdapter {
    fn clone(&self) -> Self {
        let (down, up) = (self.down.shallow_clone(), self.up.shallow_clone());
        Self { down, up, scale: self.scale, dropout: self.dropout }
    }
}

impl LowRankAdapter {
    /// `[.., inputs]` to `[.., outputs]`. Dropout acts if `train`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let x = self.dropout.forward(x.shallow_clone(), train);
        x.linear::<&Tensor>(&self.down, None).linear::<&Tensor>(&self.up, None) * self.scale
    }

    /// Its parameters.
    pub fn weights(&self) -> [&Tensor; 2] {
        [&self.down, &self.up]
    }
}
