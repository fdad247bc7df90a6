//! What tests of kernels share.

use bert4rs_tensor_core::{Device, Kind, Tensor};

/// Normal numbers of `kind`, those of a seed, that ask for gradients.
pub(crate) fn leaf(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind).set_requires_grad(true)
}

/// The same numbers in FP64, asking for gradients.
pub(crate) fn double(x: &Tensor) -> Tensor {
    x.detach().to_kind(Kind::Double).set_requires_grad(true)
}

/// How far `found` may be from FP64, as a share of the greatest value.
pub(crate) fn tolerance(kind: Kind) -> f64 {
    if kind == Kind::Float { 3e-6 } else { 2e-2 }
}

pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let expected = expected.to_kind(Kind::Double);
    let error = (found.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
    let greatest = expected.abs().max().double_value(&[]).max(0.5);
    let share = error / greatest;
    assert!(share <= tolerance, "{what}: off by {share:.2e} of {greatest:.2e}");
}
