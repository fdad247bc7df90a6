//! Norms of gradients, and clipping by them.

use bert4rs_kernels::sum_of_squares::{self, sum_of_squares};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::policy::{Op, Policy};
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};
use serde::{Deserialize, Serialize};

/// Clipping by the norm of gradients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Gradients are scaled so that their common norm is at most this.
    pub max_norm: f64,
    /// Whose gradients.
    #[serde(default)]
    pub scope: ClipScope,
}

/// Whose gradients are clipped, and whose norm decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipScope {
    /// Those of AdamW's parameters. The others' updates do not depend on the gradient's scale,
    /// and their norm, much larger at times, would stall AdamW.
    #[default]
    Adamw,
    /// All, by one norm.
    All,
}

/// The sum of squares of each of `grads`, 0 for an undefined one: FP64 `[n]` on `device`, where all
/// gradients are.
///
/// A sum is finite exactly when all values of its gradient are; on devices other than the CPU
/// sums are taken in FP32, so that a norm above 1e19 counts as infinite there.
pub fn sums_of_squares(grads: &[Tensor], device: Device, policy: &Policy) -> Result<Tensor> {
    let op = "norms of gradients";
    let takes_own = |grad: &Tensor| policy.takes_own(Op::GradientNorm, grad);
    if device == Device::Cpu {
        let square = |grad: &Tensor| square_on_cpu(grad, takes_own);
        let sums = grads.iter().map(square).collect::<Result<Vec<f64>>>()?;
        return Tensor::f_from_slice(&sums).during(op);
    }
    if sum_of_squares::supports_many(grads, device)
        && grads.iter().filter(|grad| grad.defined()).all(takes_own)
    {
        return sum_of_squares::sums_of_squares(grads, device);
    }
    let zero = Tensor::f_zeros([0i64; 0], (Kind::Double, device)).during(op)?;
    let norm = |grad: &Tensor| match grad.defined() {
        true => plain_norm(grad),
        false => Ok(zero.shallow_clone()),
    };
    let norms = grads.iter().map(norm).collect::<Result<Vec<_>>>()?;
    Tensor::f_stack(&norms, 0).and_then(|norms| norms.f_square()).during(op)
}

/// Whether our kernel takes a gradient on the CPU, which is defined.
fn has_kernel(grad: &Tensor) -> bool {
    matches!(grad.kind(), Kind::Float | Kind::BFloat16) && grad.is_contiguous()
}

fn square_on_cpu(grad: &Tensor, takes_own: impl Fn(&Tensor) -> bool) -> Result<f64> {
    if !grad.defined() {
        return Ok(0.0);
    }
    if takes_own(grad) && has_kernel(grad) {
        return sum_of_squares(grad);
    }
    Ok(plain_norm(grad)?.f_double_value(&[]).during("norm of a gradient")?.powi(2))
}

/// The norm by libtorch, in FP64 for CPU and FP64 tensors, else FP32.
fn plain_norm(grad: &Tensor) -> Result<Tensor> {
    let exact = grad.kind() == Kind::Double || grad.device() == Device::Cpu;
    let kind = if exact { Kind::Double } else { Kind::Float };
    let norm = grad.f_norm_scalaropt_dtype(2.0, kind).during("norm of a gradient")?;
    norm.f_to_kind(Kind::Double).during("norm of a gradient")
}

/// The factor that brings `norm`, FP64 `[]`, down to `max_norm`, at most 1; PyTorch's formula.
pub(crate) fn factor(norm: &Tensor, max_norm: f64) -> Result<Tensor> {
    let factor = (norm + 1e-6).f_reciprocal().during("clipping")? * max_norm;
    factor.f_clamp_max(1.0).during("clipping")
}

/// Scales `grads` in place so that their common norm is at most `max_norm`, and returns the
/// norm before. Undefined tensors count as zeros. Nothing is changed if the norm is not finite.
///
/// # Errors
/// What libtorch throws.
pub fn clip_by_norm(grads: &[Tensor], max_norm: f64) -> Result<f64> {
    let op = "clip gradients";
    let _guard = bert4rs_tensor_core::no_grad_guard();
    let device = grads.iter().find(|grad| grad.defined()).map_or(Device::Cpu, Tensor::device);
    let sum = sums_of_squares(grads, device, &Policy::default())?.f_sum(Kind::Double).during(op)?;
    let norm = sum.f_sqrt().during(op)?;
    let factor = factor(&norm, max_norm)?;
    let norm = norm.f_double_value(&[]).during(op)?;
    if norm.is_finite() {
        for grad in grads.iter().filter(|grad| grad.defined()) {
            let _ = grad.shallow_clone().f_mul_(&factor).during(op)?;
        }
    }
    Ok(norm)
}

/// The factor on a step's gradients.
#[derive(Debug)]
pub(crate) enum GradScale {
    /// The host knows it, and that all gradients are finite.
    Known(f64),
    /// FP64 `[]`: 0 where gradients are not all finite, and then they count as 0.
    OnDevice(Tensor),
}

impl GradScale {
    /// `grad`, scaled.
    pub(crate) fn apply(&self, grad: Tensor) -> Result<Tensor> {
        let op = "scale a gradient";
        match self {
            Self::Known(1.0) => Ok(grad),
            Self::Known(factor) => grad.f_mul_scalar(*factor).during(op),
            Self::OnDevice(factor) => {
                let scaled = grad.f_mul(factor).during(op)?;
                scaled.f_masked_fill(&factor.eq(0.0), 0.0).during(op)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_to_the_norm_and_reports_the_one_before() {
        for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
            let grads = [
                Tensor::from_slice(&[3.0f32, 0.0]).to_kind(kind),
                Tensor::new(),
                Tensor::from_slice(&[4.0f32]).to_kind(kind),
            ];
            assert_eq!(clip_by_norm(&grads, 1.0).unwrap(), 5.0);
            let after = clip_by_norm(&grads, 10.0).unwrap();
            assert!((after - 1.0).abs() < 4e-3, "{kind:?}: {after}");
        }
    }

    #[test]
    fn transposed_gradients_count_too() {
        let grad = Tensor::ones([4, 9], (Kind::Float, Device::Cpu)).transpose(0, 1);
        assert_eq!(clip_by_norm(&[grad], 100.0).unwrap(), 6.0);
    }
}
