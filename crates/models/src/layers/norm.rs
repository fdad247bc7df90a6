//! Normalisation.

use bert4rs_tensor_core::param::{Init, Path, Role};
use bert4rs_tensor_core::{Result, Tensor};

/// `(x - mean) / √(variance + eps) · weight + bias` over the last axis, with statistics in FP32.
/// Source: arXiv 1607.06450.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Parameters `weight` (ones) and `bias` (zeros) under `path`.
    pub fn new(path: &Path, features: i64, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: path.param("weight", &[features], Role::Norm, Init::Ones)?,
            bias: path.param("bias", &[features], Role::Norm, Init::Zeros)?,
            eps,
        })
    }

    /// `[.., features]`; shape and dtype stay.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, false)
    }
}
