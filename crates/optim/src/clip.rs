//! Norms of gradients, and clipping by them.

use bert4rs_kernels::norm;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

/// The sum of squares of each of `grads`, 0 for an undefined one. The host waits for the device
/// once.
///
/// A sum is finite exactly when all values of its gradient are; on devices other than the CPU
/// sums are taken in FP32, so that a norm above 1e19 counts as infinite there.
pub fn sums_of_squares(grads: &[Tensor]) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; grads.len()];
    let mut elsewhere = Vec::new();
    for (index, grad) in grads.iter().enumerate().filter(|(_, grad)| grad.defined()) {
        let fused = matches!(grad.kind(), Kind::Float | Kind::BFloat16)
            && grad.device() == Device::Cpu
            && grad.is_contiguous();
        if fused {
            sums[index] = norm::sum_of_squares(grad)?;
        } else {
            elsewhere.push((index, plain_norm(grad)?));
        }
    }
    if !elsewhere.is_empty() {
        let op = "norms of gradients";
        let norms: Vec<&Tensor> = elsewhere.iter().map(|(_, norm)| norm).collect();
        let norms = Tensor::f_stack(&norms, 0).during(op)?.to_kind(Kind::Double);
        for ((index, _), norm) in elsewhere.iter().zip(Vec::<f64>::try_from(norms).during(op)?) {
            sums[*index] = norm * norm;
        }
    }
    Ok(sums)
}

/// The norm by libtorch, in FP64 for CPU and FP64 tensors, else FP32.
fn plain_norm(grad: &Tensor) -> Result<Tensor> {
    let exact = grad.kind() == Kind::Double || grad.device() == Device::Cpu;
    let kind = if exact { Kind::Double } else { Kind::Float };
    let norm = grad.f_norm_scalaropt_dtype(2.0, kind).during("norm of a gradient")?;
    norm.f_to_kind(Kind::Double).during("norm of a gradient")
}

/// The factor that brings `norm` down to `max_norm`, at most 1; PyTorch's formula.
pub fn factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// Scales `grads` in place so that their common norm is at most `max_norm`, and returns the
/// norm before. Undefined tensors count as zeros. Nothing is changed if the norm is not finite.
pub fn clip_by_norm(grads: &[Tensor], max_norm: f64) -> Result<f64> {
    let norm = sums_of_squares(grads)?.iter().sum::<f64>().sqrt();
    let factor = factor(norm, max_norm);
    if norm.is_finite() && factor < 1.0 {
        let _guard = bert4rs_tensor_core::no_grad_guard();
        for grad in grads.iter().filter(|grad| grad.defined()) {
            let mut grad = grad.shallow_clone();
            let _ = grad.f_mul_scalar_(factor).during("clip a gradient")?;
        }
    }
    Ok(norm)
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
