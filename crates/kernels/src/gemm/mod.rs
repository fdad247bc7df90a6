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

#[cfg(target_arch = "x86_64")]
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use bert4rs_tensor_core::cpu::CpuFeatures;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};

use crate::cpu::views;

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

/// Whether [`product`] works on `device` for tensors of `kind` with this inner dimension.
pub fn supports(device: Device, kind: Kind, inner: i64) -> bool {
    let cpu = CpuFeatures::detect();
    match (device, kind) {
        (Device::Cpu, Kind::Float) => cpu.avx512,
        (Device::Cpu, Kind::BFloat16) => cpu.avx512_bf16 && inner % 2 == 0,
        (Device::Cuda(_), Kind::Float | Kind::BFloat16) => true,
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
/// machine where it is not [supported](supports).
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
    if operands.into_iter().flatten().any(|operand| views::overlap(operand, out)) {
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
        return cuda::product_into(out, alpha, a, rhs, plus, structure);
    }
    if !supports(a.device(), a.kind(), inner) {
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
    cpu::run(out, a, rhs, alpha, plus, structure)?;
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
