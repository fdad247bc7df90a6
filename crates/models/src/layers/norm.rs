//! Normalisation.

use bert4rs_kernels::norm as kernel;
use bert4rs_kernels::rotary::HeadNorm;
use bert4rs_tensor_core::param::{Init, Kernels, ParamPath, Role};
use bert4rs_tensor_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::ResidualStream;

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
    kernels: Kernels,
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
    pub fn new(path: &ParamPath, kind: NormKind, features: i64, eps: f64) -> Result<Self> {
        let weight = path.param("weight", &[features], Role::Norm, Init::Ones)?;
        let bias = match kind {
            NormKind::Layer => Some(path.param("bias", &[features], Role::Norm, Init::Zeros)?),
            NormKind::Rms => None,
        };
        Ok(Self { kind, weight, bias, eps, kernels: path.kernels() })
    }

    /// `[.., features]`; shape and dtype stay.
    ///
    /// # Errors
    /// What the kernel throws.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.own(x, kernel::FusedWith::Nothing) {
            Some(own) => kernel::normalize(&own, x),
            None => Ok(self.plain(x)),
        }
    }

    /// [`forward`](Self::forward) of `x + y`, to be used twice.
    pub(super) fn of_sum(&self, x: &Tensor, y: &Tensor) -> Result<ResidualStream> {
        Ok(match self.own(x, kernel::FusedWith::Sum) {
            Some(own) => ResidualStream::Forked(kernel::normalize_sum(&own, x, y)?),
            None => ResidualStream::Whole(self.plain(&(x + y))),
        })
    }

    /// [`forward`](Self::forward), and what was normalised.
    pub(super) fn with_sum(&self, x: ResidualStream) -> Result<[Tensor; 2]> {
        let (x, y) = x.summands();
        match self.own(&x, kernel::FusedWith::Sum) {
            Some(own) => kernel::add_and_normalize(&own, &x, y.as_ref()),
            None => {
                let sum = y.map_or_else(|| x.shallow_clone(), |y| &x + y);
                Ok([self.plain(&sum), sum])
            }
        }
    }

    /// [`forward`](Self::forward) of hidden states in any form.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn last(&self, x: ResidualStream) -> Result<Tensor> {
        match x {
            ResidualStream::Sum(_) => {
                let [normed, _] = self.with_sum(x)?;
                Ok(normed)
            }
            other => self.forward(&other.whole()),
        }
    }

    /// The kernel's form of it, where its kernel is to be used and is the faster one.
    fn own(&self, x: &Tensor, fused_with: kernel::FusedWith) -> Option<kernel::NormArgs<'_>> {
        let norm_kind = match self.kind {
            NormKind::Layer => kernel::NormKind::Layer,
            NormKind::Rms => kernel::NormKind::Rms,
        };
        let own = kernel::NormArgs {
            norm_kind,
            weight: &self.weight,
            bias: self.bias.as_ref(),
            eps: self.eps,
        };
        let fused = self.kernels == Kernels::Fused && kernel::supports(&own, x);
        (fused && kernel::is_fast(norm_kind, x.kind(), fused_with)).then_some(own)
    }

    /// Whether a sum before it is best left to it.
    pub(super) fn adds(&self, x: &Tensor) -> bool {
        self.own(x, kernel::FusedWith::Sum).is_some()
    }

    /// The form in which the kernel of rotations takes it, where it has one.
    pub(super) fn of_heads(&self) -> Option<HeadNorm<'_>> {
        let rms = self.kind == NormKind::Rms;
        rms.then_some(HeadNorm { weight: &self.weight, eps: self.eps })
    }

    fn plain(&self, x: &Tensor) -> Tensor {
        let features = self.weight.size();
        match self.kind {
            NormKind::Layer => {
                x.layer_norm(features, Some(&self.weight), self.bias.as_ref(), self.eps, false)
            }
            NormKind::Rms => x.rms_norm(features, Some(&self.weight), self.eps),
        }
    }
}
