//! Normalisation.

use bert4rs_kernels::norm as kernel;
use bert4rs_kernels::norm::NormArgs;
use bert4rs_kernels::rotary::HeadNorm;
use bert4rs_tensor_core::param::{Init, ParamPath, Role};
use bert4rs_tensor_core::policy::Policy;
use bert4rs_tensor_core::{Result, Tensor};

use super::ResidualStream;

pub use bert4rs_kernels::norm::NormKind;

/// A normalisation over the last axis, with statistics in FP32.
#[derive(Debug)]
pub struct Norm {
    kind: NormKind,
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
    policy: Policy,
}

/// A clone has the same parameters, not copies of them.
impl Clone for Norm {
    fn clone(&self) -> Self {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        let (weight, policy) = (self.weight.shallow_clone(), self.policy.clone());
        Self { weight, bias, policy, ..*self }
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
        Ok(Self { kind, weight, bias, eps, policy: path.policy().clone() })
    }

    /// [`NormKind::Layer`] without its bias, as in ModernBERT (arXiv 2412.13663).
    pub fn without_bias(path: &ParamPath, features: i64, eps: f64) -> Result<Self> {
        let weight = path.param("weight", &[features], Role::Norm, Init::Ones)?;
        let policy = path.policy().clone();
        Ok(Self { kind: NormKind::Layer, weight, bias: None, eps, policy })
    }

    /// `[.., features]`; shape and dtype stay.
    ///
    /// # Errors
    /// What the kernel throws.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.own(x, kernel::FusedWith::Nothing) {
            Some(own) => kernel::normalize(&own, x),
            None => Ok(self.args().forward(x)),
        }
    }

    /// [`forward`](Self::forward) of `x + y`, to be used twice.
    pub(super) fn of_sum(&self, x: &Tensor, y: &Tensor) -> Result<ResidualStream> {
        Ok(match self.own(x, kernel::FusedWith::Sum) {
            Some(own) => ResidualStream::Forked(kernel::normalize_sum(&own, x, y)?),
            None => ResidualStream::Whole(self.args().forward(&(x + y))),
        })
    }

    /// [`forward`](Self::forward), and what was normalised.
    pub(super) fn with_sum(&self, x: ResidualStream) -> Result<[Tensor; 2]> {
        let (x, y) = x.summands();
        match self.own(&x, kernel::FusedWith::Sum) {
            Some(own) => kernel::add_and_normalize(&own, &x, y.as_ref()),
            None => {
                let sum = y.map_or_else(|| x.shallow_clone(), |y| &x + y);
                Ok([self.args().forward(&sum), sum])
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

    fn args(&self) -> NormArgs<'_> {
        let Self { kind, weight, bias, eps, .. } = self;
        NormArgs { norm_kind: *kind, weight, bias: bias.as_ref(), eps: *eps }
    }

    /// What its kernel takes, where the policy chooses it.
    fn own(&self, x: &Tensor, fused_with: kernel::FusedWith) -> Option<NormArgs<'_>> {
        let args = self.args();
        let is_own = self.policy.takes_own(self.kind.op(fused_with), x);
        (is_own && kernel::supports(&args, x)).then_some(args)
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
}
