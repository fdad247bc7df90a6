//! Matrices in FP8.
//!
//! Axes: `r` rows, `c` columns.
//!
//! Floor for a value: its 2 or 4 bytes are read and 1 is written, 2 with the transposed copy. A
//! factor of the whole tensor from its own values needs a first pass that reads it; one that is
//! given, or one of a row that fits the cache, does not. The transposed copy is made of the FP8
//! values (1 byte read), except where its own rows have factors of their own.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use half::bf16;

use super::format::Format;
use crate::cpu::isa::Isa;
use crate::cpu::views;
use cpu::CpuCast;

const OP: &str = "cast to FP8";

/// Where the factor comes from.
#[derive(Debug, Clone, Copy)]
pub enum Factor<'a> {
    /// The largest magnitude in the tensor: one factor.
    Tensor,
    /// Given, FP32 `[1]`: made from what earlier steps saw.
    Given(&'a Tensor),
    /// The largest magnitude in the row: a factor a row. The transposed copy has its own, one a
    /// row of its own.
    Row,
}

/// A matrix in FP8 and what its values are to be multiplied with.
#[derive(Debug)]
pub struct Scaled {
    /// `[r, c]`, of [`Format::kind`].
    pub values: Tensor,
    /// FP32, `[1]` or `[r, 1]`.
    pub inverse: Tensor,
}

impl Scaled {
    /// A second handle on the same memory.
    pub fn shallow_clone(&self) -> Self {
        let (values, inverse) = (self.values.shallow_clone(), self.inverse.shallow_clone());
        Self { values, inverse }
    }

    /// The FP32 matrix that this stands for.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn dequantize(&self) -> Result<Tensor> {
        let wide = self.values.f_to_kind(Kind::Float).during(OP)?;
        wide.f_mul(&self.inverse).during(OP)
    }
}

/// What [`cast`] returns.
#[derive(Debug)]
pub struct Cast {
    /// `[r, c]`.
    pub straight: Scaled,
    /// `[c, r]`, where asked for.
    pub transposed: Option<Scaled>,
    /// The largest finite magnitude, FP32 `[1]`, on the tensor's device.
    pub amax: Tensor,
    /// How many values the straight copy's rounding took beyond the largest number, `i64` `[1]`.
    pub overflows: Tensor,
}

/// `x_rc`, dense and FP32 or BF16, in `format`. The same bits on every device, for any thread
/// count and instruction set.
///
/// Infinities don't count for the factor: they saturate, and are counted as overflow.
///
/// # Errors
/// Another dtype, number of axes or layout.
pub fn cast(x_rc: &Tensor, format: Format, factor: Factor<'_>, transposed: bool) -> Result<Cast> {
    match x_rc.device() {
        Device::Cuda(_) => cuda::cast(x_rc, format, factor, transposed),
        _ => cast_on(Isa::fastest(), x_rc, format, factor, transposed),
    }
}

/// [`cast`] on an instruction set of [`Isa::available`].
///
/// # Errors
/// As of [`cast`], and a tensor that is not on the CPU.
fn cast_on(
    isa: Isa,
    x_rc: &Tensor,
    format: Format,
    factor: Factor<'_>,
    transposed: bool,
) -> Result<Cast> {
    let (rows, cols) = sizes(x_rc)?;
    let task = CpuCast { isa, format, rows, cols };
    let what = "a matrix to cast to FP8";
    match x_rc.kind() {
        Kind::BFloat16 => task.run::<bf16>(views::read(x_rc, what)?, factor, transposed),
        _ => task.run::<f32>(views::read(x_rc, what)?, factor, transposed),
    }
}

/// The two sizes of a matrix.
fn sizes(x_rc: &Tensor) -> Result<(usize, usize)> {
    match x_rc.size()[..] {
        [rows, cols] => Ok((rows as usize, cols as usize)),
        _ => Err(Error::Shape {
            op: OP,
            tensor: "the matrix",
            found: x_rc.size(),
            expected: "two axes".into(),
        }),
    }
}
