//! Against FP64, and the CUDA kernel too.

use super::*;
use crate::testing::{distance, random as random_of};

fn random(shape: [i64; 3], kind: Kind) -> Tensor {
    random_of(&shape, kind)
}

fn assert_close(found: &Tensor, expected: &Tensor, kind: Kind) {
    let expected = expected.to_kind(Kind::Double);
    let error = (found.to_kind(Kind::Double) - &expected).abs().max();
    let error = f64::try_from(error / expected.abs().max()).unwrap();
    assert!(error < if kind == Kind::Float { 1e-6 } else { 4e-3 }, "{kind:?}: off by {error}");
}

#[test]
fn equals_libtorch_for_all_edges() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (stack, rows, cols, inner) in
            [(1, 1, 1, 2), (2, 12, 32, 16), (3, 13, 33, 34), (1, 100, 70, 130), (2, 5, 64, 48)]
        {
            if !supports(Device::Cpu, kind, inner) {
                continue;
            }
            let a = random([stack, rows, inner], kind);
            let b = random([stack, inner, cols], kind);
            let c = random([stack, rows, cols], kind);
            let double = |tensor: &Tensor| tensor.to_kind(Kind::Double);
            let expected = double(&a).bmm(&double(&b)) * 0.5 + double(&c) * 2.0;
            let plus = Some((2.0, &c));
            let found = product(0.5, &a, Rhs::Plain(&b), plus, OutputStructure::Full).unwrap();
            assert_close(&found, &expected, kind);
            let transposed = b.transpose(1, 2).contiguous();
            let rhs = Rhs::Transposed(&transposed);
            let found = product(0.5, &a, rhs, plus, OutputStructure::Full).unwrap();
            assert_close(&found, &expected, kind);
        }
    }
}

#[test]
fn symmetric_results_are_symmetric_and_right() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (stack, side, inner) in [(1, 2, 4), (2, 12, 40), (3, 50, 34), (2, 131, 64)] {
            if !supports(Device::Cpu, kind, inner) {
                continue;
            }
            let x = random([stack, side, inner], kind);
            let c = random([stack, side, side], Kind::Float);
            let c = (&c + c.transpose(1, 2)).to_kind(kind).contiguous();
            let double = x.to_kind(Kind::Double);
            let expected = double.bmm(&double.transpose(1, 2)) * 0.5 - c.to_kind(Kind::Double);
            let rhs = Rhs::Transposed(&x);
            let found =
                product(0.5, &x, rhs, Some((-1.0, &c)), OutputStructure::Symmetric).unwrap();
            assert_close(&found, &expected, kind);
            assert!(found.equal(&found.transpose(1, 2)));
        }
    }
}

#[test]
fn results_of_bf16_may_be_exact_to_fp32() {
    if !supports(Device::Cpu, Kind::BFloat16, 34) {
        return;
    }
    let x = random([2, 50, 34], Kind::BFloat16);
    let double = x.to_kind(Kind::Double);
    let expected = double.bmm(&double.transpose(1, 2));
    for structure in [OutputStructure::Full, OutputStructure::Symmetric] {
        let mut found = Tensor::empty([2, 50, 50], (Kind::Float, Device::Cpu));
        product_into(&mut found, 1.0, &x, Rhs::Transposed(&x), None, structure).unwrap();
        assert_close(&found, &expected, Kind::Float);
    }
    let mut double = Tensor::empty([2, 50, 50], (Kind::Double, Device::Cpu));
    let rhs = Rhs::Transposed(&x);
    assert!(product_into(&mut double, 1.0, &x, rhs, None, OutputStructure::Full).is_err());
}

#[test]
fn refuses_shapes_that_do_not_fit() {
    let a = random([1, 4, 6], Kind::Float);
    let b = random([1, 5, 6], Kind::Float);
    assert!(product(1.0, &a, Rhs::Plain(&b), None, OutputStructure::Full).is_err());
    assert!(product(1.0, &a, Rhs::Transposed(&b), None, OutputStructure::Symmetric).is_err());
    let double = a.to_kind(Kind::Double);
    let b = b.to_kind(Kind::Double);
    assert!(product(1.0, &double, Rhs::Transposed(&b), None, OutputStructure::Full).is_err());
}

#[test]
fn emulated_symmetric_products_equal_fp64() {
    for (stack, side, inner) in [(1, 8, 16), (2, 136, 40)] {
        let x = random_of(&[stack, side, inner], Kind::BFloat16);
        let mut gram = Tensor::zeros([stack, side, side], (Kind::BFloat16, Device::Cpu));
        let rhs = Rhs::Transposed(&x);
        cuda::symmetric(&mut gram, 0.5, &x, rhs, None).unwrap();
        let double = |x: &Tensor| x.to_kind(Kind::Double);
        assert!(distance(&gram, &(double(&x).bmm(&double(&x).transpose(1, 2)) * 0.5)) < 3e-3);
        assert!(gram.equal(&gram.transpose(1, 2)));
        let mut found = gram.zeros_like();
        let rhs = Rhs::Plain(&gram);
        cuda::symmetric(&mut found, 1.5, &gram, rhs, Some((-2.0, &gram))).unwrap();
        let expected = double(&gram).bmm(&double(&gram)) * 1.5 - double(&gram) * 2.0;
        assert!(distance(&found, &expected) < 3e-3);
    }
}
