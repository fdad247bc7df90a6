//! Stacked matrix products that know when their result is symmetric, on AVX-512.
//!
//! `out = alpha A op(B) + beta C` for each matrix of a stack, where libtorch's products fall
//! short on CPUs: of a symmetric result only the lower half is computed, and FP32 runs on 512-bit
//! vectors on processors where MKL keeps to 256.
//!
//! How it works: a task owns 32 columns of one result. It packs these columns of `op(B)` once, in
//! the order in which they are read, and walks down the rows of `A`, which is read where it lies.
//! A tile of 12 rows by 32 columns stays in registers over the whole inner dimension. BF16 goes
//! the same way in pairs along the inner dimension: a pair is 32 bits, as an FP32 number is, and
//! one instruction multiplies and adds both.
//!
//! Legend: `r` rows, `c` columns, `d` the inner dimension, `w` 32-bit words along it.

#![expect(unsafe_code, reason = "vector instructions, and tiles of one result written by many")]

#[cfg(target_arch = "x86_64")]
mod avx512;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};

use crate::slices;

/// The right operand of a product.
#[derive(Debug, Clone, Copy)]
pub enum Rhs<'a> {
    /// `[k, d, c]`.
    Plain(&'a Tensor),
    /// `[k, c, d]`, to be transposed.
    Transposed(&'a Tensor),
}

/// What is known of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStructure {
    /// Nothing.
    Full,
    /// It is symmetric, and so are what is added to it and a right operand that is plain.
    Symmetric,
}

/// Whether [`product`] works here for tensors of `kind` with this inner dimension.
pub fn available(kind: Kind, inner: i64) -> bool {
    let cpu = bert4rs_tensor_core::cpu::CpuFeatures::detect();
    match kind {
        Kind::Float => cpu.avx512,
        Kind::BFloat16 => cpu.avx512_bf16 && inner % 2 == 0,
        _ => false,
    }
}

/// `out = alpha A op(B) + beta C` for each matrix of a stack; sums are FP32.
///
/// `a` is `[k, r, d]`, `out` and `plus`, `beta` with `C`, `[k, r, c]`. All are dense, on the CPU,
/// and FP32 or BF16 alike; of BF16 operands `out` and `C` may be FP32. What `out` held is lost.
///
/// # Errors
/// Other shapes, dtypes, devices or layouts, an operand that shares memory with `out`, and a
/// machine where it is not [`available`].
pub fn product_into(
    out: &mut Tensor,
    alpha: f32,
    a: &Tensor,
    rhs: Rhs<'_>,
    plus: Option<(f32, &Tensor)>,
    structure: OutputStructure,
) -> Result<()> {
    let op = "matrix product";
    let (stack, rows, inner) = a.size3().during(op)?;
    let (b, cols) = match rhs {
        Rhs::Plain(b) => (b, b.size3().during(op)?.2),
        Rhs::Transposed(b) => (b, b.size3().during(op)?.1),
    };
    let b_shape = match rhs {
        Rhs::Plain(_) => [stack, inner, cols],
        Rhs::Transposed(_) => [stack, cols, inner],
    };
    check_shape("right operand", b, b_shape)?;
    if let Some((_, c)) = plus {
        check_shape("added matrix", c, [stack, rows, cols])?;
    }
    check_shape("result", out, [stack, rows, cols])?;
    let operands = [Some(a), Some(b), plus.map(|(_, c)| c)];
    if operands.into_iter().flatten().any(|operand| slices::overlap(operand, out)) {
        return Err(Error::Unsupported {
            what: "a product in place".into(),
            reason: "an operand shares memory with the result".into(),
        });
    }
    if structure == OutputStructure::Symmetric && rows != cols {
        let expected = "as many rows as columns".into();
        return Err(Error::Shape {
            op,
            tensor: "symmetric result",
            found: vec![rows, cols],
            expected,
        });
    }
    if let Device::Cuda(_) = a.device() {
        check_cuda(out, a, b, plus.map(|(_, c)| c))?;
        return crate::cuda::gemm::product_into(out, alpha, a, rhs, plus, structure);
    }
    if !available(a.kind(), inner) {
        return Err(Error::Unsupported {
            what: format!("this product of {:?}", a.kind()),
            reason: "it needs AVX-512, and for BF16 its dot products and an even inner dimension"
                .into(),
        });
    }
    if !matches!(
        (a.kind(), out.kind()),
        (Kind::BFloat16, Kind::BFloat16 | Kind::Float) | (Kind::Float, Kind::Float)
    ) {
        return Err(Error::Unsupported {
            what: format!("a product of {:?} in {:?}", a.kind(), out.kind()),
            reason: "the result is of the operands' dtype, or FP32".into(),
        });
    }
    #[cfg(target_arch = "x86_64")]
    avx512::run(out, a, rhs, alpha, plus, structure)?;
    Ok(())
}

/// [`product_into`] a new tensor.
pub fn product(
    alpha: f32,
    a: &Tensor,
    rhs: Rhs<'_>,
    plus: Option<(f32, &Tensor)>,
    structure: OutputStructure,
) -> Result<Tensor> {
    let op = "matrix product";
    let (stack, rows, _) = a.size3().during(op)?;
    let cols = match rhs {
        Rhs::Plain(b) => b.size3().during(op)?.2,
        Rhs::Transposed(b) => b.size3().during(op)?.1,
    };
    let mut out = Tensor::f_empty([stack, rows, cols], (a.kind(), a.device())).during(op)?;
    product_into(&mut out, alpha, a, rhs, plus, structure)?;
    Ok(out)
}

/// Checks dtypes, layouts and devices of tensors on a GPU.
fn check_cuda(out: &Tensor, a: &Tensor, b: &Tensor, plus: Option<&Tensor>) -> Result<()> {
    let what = "an operand of a matrix product";
    crate::cuda::check_float(a, what)?;
    crate::cuda::check(b, a.kind(), a.device(), what)?;
    let out_kind = if out.kind() == Kind::Float { Kind::Float } else { a.kind() };
    crate::cuda::check(out, out_kind, a.device(), "the result of a matrix product")?;
    match plus {
        Some(c) => crate::cuda::check(c, out_kind, a.device(), "what is added to a product"),
        None => Ok(()),
    }
}

fn check_shape(tensor: &'static str, found: &Tensor, expected: [i64; 3]) -> Result<()> {
    if found.size() == expected {
        return Ok(());
    }
    let (found, expected) = (found.size(), format!("{expected:?}"));
    Err(Error::Shape { op: "matrix product", tensor, found, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: [i64; 3], kind: Kind) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
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
                if !available(kind, inner) {
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
                if !available(kind, inner) {
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
        if !available(Kind::BFloat16, 34) {
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
}
