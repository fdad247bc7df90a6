//! Matrices in FP8.
//!
//! Axes: `r` rows, `c` columns.
//!
//! Floor for a value: its 2 or 4 bytes are read and 1 is written, 2 with the transposed copy. A
//! factor of the whole tensor from its own values needs a first pass that reads it; one that is
//! given, or one of a row that fits the cache, does not. The transposed copy is made of the FP8
//! values (1 byte read), except where its own rows have factors of their own.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::format::{Format, encode};
use crate::isa::{Isa, multiversioned};
use crate::slices;
use crate::weight::Grad;

const OP: &str = "cast to FP8";

/// Values a task takes at a time.
const CHUNK: usize = 1 << 14;
/// Sides of the square that is transposed at a time: a row of it in FP8 is one cache line.
const TILE: usize = 64;

/// What the factor is made from.
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
        Device::Cuda(_) => crate::cuda::fp8::cast(x_rc, format, factor, transposed),
        _ => cast_on(Isa::fastest(), x_rc, format, factor, transposed),
    }
}

/// [`cast`] on an instruction set of [`Isa::available`], for tests.
///
/// # Errors
/// As of [`cast`], and a tensor that is not on the CPU.
pub fn cast_on(
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
        Kind::BFloat16 => task.run::<bf16>(slices::read(x_rc, what)?, factor, transposed),
        _ => task.run::<f32>(slices::read(x_rc, what)?, factor, transposed),
    }
}

/// The two sizes of a matrix.
pub(crate) fn sizes(x_rc: &Tensor) -> Result<(usize, usize)> {
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

/// FP32 bits of the largest finite magnitude; as integers they have the order of the numbers.
#[inline(always)]
fn amax_body<T: Grad>(values: &[T]) -> u32 {
    let mut largest = 0;
    for value in values {
        let magnitude = value.widen().to_bits() & 0x7fff_ffff;
        let finite = if magnitude < f32::INFINITY.to_bits() { magnitude } else { 0 };
        largest = finite.max(largest);
    }
    largest
}

multiversioned! {
    fn amax_on[T: Grad][T](values: &[T]) -> u32 = amax_body
}

/// Raises each of `largest` to the magnitude of the value in its column.
#[inline(always)]
fn raise_body<T: Grad>(values: &[T], largest: &mut [u32]) {
    for (value, largest) in values.iter().zip(largest) {
        let magnitude = value.widen().to_bits() & 0x7fff_ffff;
        let finite = if magnitude < f32::INFINITY.to_bits() { magnitude } else { 0 };
        *largest = finite.max(*largest);
    }
}

multiversioned! {
    fn raise_on[T: Grad][T](values: &[T], largest: &mut [u32]) = raise_body
}

/// Rounds `values · factor`; how many overflow.
#[inline(always)]
fn round_body<T: Grad>(format: Format, factor: f32, values: &[T], out: &mut [u8]) -> u32 {
    match format {
        Format::E4M3 => round_values::<T, true>(factor, values, out),
        Format::E5M2 => round_values::<T, false>(factor, values, out),
    }
}

#[inline(always)]
fn round_values<T: Grad, const E4M3: bool>(factor: f32, values: &[T], out: &mut [u8]) -> u32 {
    let format = if E4M3 { Format::E4M3 } else { Format::E5M2 };
    let mut overflows = 0;
    for (value, out) in values.iter().zip(out) {
        let (encoded, overflow) = encode(format, (value.widen() * factor).to_bits());
        *out = encoded;
        overflows += u32::from(overflow);
    }
    overflows
}

multiversioned! {
    fn round_on[T: Grad][T](
        format: Format, factor: f32, values: &[T], out: &mut [u8]
    ) -> u32 = round_body
}

/// Rounds a row of values, each with the factor of its column.
#[inline(always)]
fn round_columns_body<T: Grad>(format: Format, factors: &[f32], values: &[T], out: &mut [u8]) {
    for ((value, factor), out) in values.iter().zip(factors).zip(out) {
        *out = encode(format, (value.widen() * factor).to_bits()).0;
    }
}

multiversioned! {
    fn round_columns_on[T: Grad][T](
        format: Format, factors: &[f32], values: &[T], out: &mut [u8]
    ) = round_columns_body
}

/// What is the same for all parts of a cast.
#[derive(Clone, Copy)]
struct CpuCast {
    isa: Isa,
    format: Format,
    rows: usize,
    cols: usize,
}

impl CpuCast {
    fn run<T: Grad>(self, x: &[T], factor: Factor<'_>, transposed: bool) -> Result<Cast> {
        match factor {
            Factor::Row => self.by_row(x, transposed),
            Factor::Tensor => {
                let largest = x.par_chunks(CHUNK).map(|part| amax_on(self.isa, part));
                let amax = f32::from_bits(largest.max().unwrap_or(0));
                self.by_tensor(x, self.format.factor(amax), transposed)
            }
            Factor::Given(given) => {
                let given: &[f32] = slices::read(given, "a given factor")?;
                let &[factor] = given else {
                    return Err(Error::Shape {
                        op: OP,
                        tensor: "the given factor",
                        found: vec![given.len() as i64],
                        expected: "one value".into(),
                    });
                };
                self.by_tensor(x, factor, transposed)
            }
        }
    }

    /// One factor for all values; the largest magnitude is seen on the way.
    fn by_tensor<T: Grad>(self, x: &[T], factor: f32, transposed: bool) -> Result<Cast> {
        let mut values = empty_bytes(self.rows, self.cols)?;
        let out: &mut [u8] = slices::write(&mut values, "an FP8 matrix")?;
        let (largest, overflows) = x
            .par_chunks(CHUNK)
            .zip(out.par_chunks_mut(CHUNK))
            .map(|(x, out)| {
                let overflows = round_on(self.isa, self.format, factor, x, out);
                (amax_on(self.isa, x), i64::from(overflows))
            })
            .reduce(|| (0, 0), |a, b| (a.0.max(b.0), a.1 + b.1));
        let inverse = Tensor::from_slice(&[1.0 / factor]);
        let transposed = match transposed {
            false => None,
            true => {
                let mut copy = empty_bytes(self.cols, self.rows)?;
                transpose(out, self.rows, self.cols, slices::write(&mut copy, "FP8 values")?);
                Some(self.scaled(copy, inverse.shallow_clone())?)
            }
        };
        let straight = self.scaled(values, inverse)?;
        let amax = Tensor::from_slice(&[f32::from_bits(largest)]);
        let overflows = Tensor::from_slice(&[overflows]);
        Ok(Cast { straight, transposed, amax, overflows })
    }

    fn by_row<T: Grad>(self, x: &[T], transposed: bool) -> Result<Cast> {
        let Self { isa, format, rows, cols } = self;
        let mut values = empty_bytes(rows, cols)?;
        let mut inverse =
            Tensor::f_empty([rows as i64, 1], (Kind::Float, Device::Cpu)).during(OP)?;
        let out: &mut [u8] = slices::write(&mut values, "an FP8 matrix")?;
        let inverses: &mut [f32] = slices::write(&mut inverse, "inverse factors")?;
        let width = cols.max(1);
        let (largest, overflows) = x
            .par_chunks(width)
            .zip(out.par_chunks_mut(width))
            .zip(inverses.par_iter_mut())
            .map(|((x, out), inverse)| {
                let largest = amax_on(isa, x);
                let factor = format.factor(f32::from_bits(largest));
                *inverse = 1.0 / factor;
                (largest, i64::from(round_on(isa, format, factor, x, out)))
            })
            .reduce(|| (0, 0), |a, b| (a.0.max(b.0), a.1 + b.1));
        let transposed = if transposed { Some(self.columns(x)?) } else { None };
        let amax = Tensor::from_slice(&[f32::from_bits(largest)]);
        let overflows = Tensor::from_slice(&[overflows]);
        Ok(Cast { straight: self.scaled(values, inverse)?, transposed, amax, overflows })
    }

    /// The transposed copy with a factor for each of its rows, the columns of `x`.
    fn columns<T: Grad>(self, x: &[T]) -> Result<Scaled> {
        let Self { isa, format, rows, cols } = self;
        let width = cols.max(1);
        let largest = x
            .par_chunks(width * TILE)
            .map(|block| {
                let mut largest = vec![0; cols];
                block.chunks(width).for_each(|row| raise_on(isa, row, &mut largest));
                largest
            })
            .reduce(|| vec![0; cols], |a, b| a.iter().zip(&b).map(|(a, b)| *a.max(b)).collect());
        let factors: Vec<f32> =
            largest.iter().map(|&bits| format.factor(f32::from_bits(bits))).collect();
        let mut copy = empty_bytes(cols, rows)?;
        let out: &mut [u8] = slices::write(&mut copy, "an FP8 matrix")?;
        out.par_chunks_mut(TILE * rows.max(1)).enumerate().for_each(|(tile, out)| {
            let start = tile * TILE;
            let count = TILE.min(cols - start);
            let factors = &factors[start..start + count];
            let mut line = [0; TILE];
            for row in 0..rows {
                let values = &x[row * cols + start..][..count];
                round_columns_on(isa, format, factors, values, &mut line);
                line[..count].iter().enumerate().for_each(|(c, &v)| out[c * rows + row] = v);
            }
        });
        let inverses: Vec<f32> = factors.iter().map(|factor| 1.0 / factor).collect();
        let inverse = Tensor::f_from_slice(&inverses).during(OP)?;
        self.scaled(copy, inverse.f_view([cols as i64, 1]).during(OP)?)
    }

    /// Bytes seen as numbers of the format.
    fn scaled(self, bytes: Tensor, inverse: Tensor) -> Result<Scaled> {
        let values = bytes.f_view_dtype(self.format.kind()).during(OP)?;
        Ok(Scaled { values, inverse })
    }
}

fn empty_bytes(rows: usize, cols: usize) -> Result<Tensor> {
    Tensor::f_empty([rows as i64, cols as i64], (Kind::Uint8, Device::Cpu)).during(OP)
}

/// `[rows, cols]` to `[cols, rows]`, a tile at a time, so that both sides stay in cache.
fn transpose(values: &[u8], rows: usize, cols: usize, out: &mut [u8]) {
    out.par_chunks_mut(TILE * rows.max(1)).enumerate().for_each(|(tile, out)| {
        let start = tile * TILE;
        let count = TILE.min(cols - start);
        for first in (0..rows).step_by(TILE) {
            let last = rows.min(first + TILE);
            for col in 0..count {
                let out = &mut out[col * rows + first..col * rows + last];
                for (out, row) in out.iter_mut().zip(first..last) {
                    *out = values[row * cols + start + col];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests;
