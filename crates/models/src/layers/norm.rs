//! Normalisation.

use bert4rs_tensor_core::param::{Init, Path, Role};
use bert4rs_tensor_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// Which normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// `(x - mean) / √(variance + eps) · weight + bias`. Source: arXiv 1607.06450.
    Layer,
    /// `x / √(mean of x² + eps) · weight`. Source: arXiv 1910.07467.
    Rms,
}

/// A normalisation over the last axis, with statistics in FP32.
#[derive(Debug)]
pub struct Norm {
    kind: NormKind,
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

/// A clone has the same parameters, not copies of them.
impl Clone for Norm {
    fn clone(&self) -> Self {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        Self { weight: self.weight.shallow_clone(), bias, ..*self }
    }
}

impl Norm {
    /// Its parameters.
    pub fn weights(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.weight).chain(&self.bias)
    }

    /// Parameters `weight` (ones) and, for [`NormKind::Layer`], `bias` (zeros) under `path`.
    pub fn new(path: &Path, kind: NormKind, features: i64, eps: f64) -> Result<Self> {
        let weight = path.param("weight", &[features], Role::Norm, Init::Ones)?;
        let bias = match kind {
            NormKind::Layer => Some(path.param("bias", &[features], Role::Norm, Init::Zeros)?),
            NormKind::Rms => None,
        };
        Ok(Self { kind, weight, bias, eps })
    }

    /// `[.., features]`; shape and dtype stay.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let features = self.weight.size();
        match self.kind {
            NormKind::Layer => {
                x.layer_norm(features, Some(&self.weight), self.bias.as_ref(), self.eps, false)
            }
            NormKind::Rms => x.rms_norm(features, Some(&self.weight), self.eps),
        }
    }
}
