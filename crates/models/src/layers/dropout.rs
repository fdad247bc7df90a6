//! Dropout.

use bert4rs_tensor_core::Tensor;

/// Zeroes each value with a probability and scales the rest up, in training alone.
/// Source: arXiv 1207.0580.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// The probability of zero.
    pub probability: f64,
}

impl Dropout {
    /// Whether it draws random numbers in training.
    pub fn acts(self) -> bool {
        self.probability > 0.0
    }

    /// Elementwise; the tensor itself, uncopied, where nothing is to be dropped.
    pub fn forward(self, x: Tensor, train: bool) -> Tensor {
        if train && self.acts() { x.dropout(self.probability, true) } else { x }
    }
}
