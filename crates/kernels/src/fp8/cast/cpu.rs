//! On the CPU, where FP8 is an emulation for tests: on rayon's threads, as speed does not count.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use rayon::prelude::*;

use super::{Cast, Factor, OP, Scaled};
use crate::cpu::isa::{Isa, multiversioned};
use crate::cpu::number::Number;
use crate::cpu::views;
use crate::fp8::format::{Format, encode};

/// Values a task takes at a time.
const CHUNK: usize = 1 << 14;

/// Sides of the square that is transposed at a time: a row of it in FP8 is one cache line.
const TILE: usize = 64;

/// What is the same for all parts of a cast.
#[derive(Clone, Copy)]
pub(super) struct CpuCast {
    pub(super) isa: Isa,
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl CpuCast {
    pub(super) fn run<T: Number>(
        self,
        x: &[T],
        factor: Factor<'_>,
        transposed: bool,
    ) -> Result<Cast> {
        match factor {
            Factor::Row => self.by_row(x, transposed),
            Factor::Tensor => {
                let largest = x.par_chunks(CHUNK).map(|part| amax_on(self.isa, part));
                let amax = f32::from_bits(largest.max().unwrap_or(0));
                self.by_tensor(x, self.format.factor(amax), transposed)
            }
            Factor::Given(given) => {
                let given: &[f32] = views::read(given, "a given factor")?;
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
    fn by_tensor<T: Number>(self, x: &[T], factor: f32, transposed: bool) -> Result<Cast> {
        let mut values = empty_bytes(self.rows, self.cols)?;
        let out: &mut [u8] = views::write(&mut values, "an FP8 matrix")?;
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
                transpose(out, self.rows, self.cols, views::write(&mut copy, "FP8 values")?);
                Some(self.scaled(copy, inverse.shallow_clone())?)
            }
        };
        let straight = self.scaled(values, inverse)?;
        let amax = Tensor::from_slice(&[f32::from_bits(largest)]);
        let overflows = Tensor::from_slice(&[overflows]);
        Ok(Cast { straight, transposed, amax, overflows })
    }

    fn by_row<T: Number>(self, x: &[T], transposed: bool) -> Result<Cast> {
        let Self { isa, format, rows, cols } = self;
        let mut values = empty_bytes(rows, cols)?;
        let mut inverse =
            Tensor::f_empty([rows as i64, 1], (Kind::Float, Device::Cpu)).during(OP)?;
        let out: &mut [u8] = views::write(&mut values, "an FP8 matrix")?;
        let inverses: &mut [f32] = views::write(&mut inverse, "inverse factors")?;
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
    fn columns<T: Number>(self, x: &[T]) -> Result<Scaled> {
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
        let out: &mut [u8] = views::write(&mut copy, "an FP8 matrix")?;
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

/// FP32 bits of the largest finite magnitude; as integers they have the order of the numbers.
#[inline(always)]
fn amax_body<T: Number>(values: &[T]) -> u32 {
    let mut largest = 0;
    for value in values {
        let magnitude = value.widen().to_bits() & 0x7fff_ffff;
        let finite = if magnitude < f32::INFINITY.to_bits() { magnitude } else { 0 };
        largest = finite.max(largest);
    }
    largest
}

multiversioned! {
    fn amax_on[T: Number][T](values: &[T]) -> u32 = amax_body
}

/// Raises each of `largest` to the magnitude of the value in its column.
#[inline(always)]
fn raise_body<T: Number>(values: &[T], largest: &mut [u32]) {
    for (value, largest) in values.iter().zip(largest) {
        let magnitude = value.widen().to_bits() & 0x7fff_ffff;
        let finite = if magnitude < f32::INFINITY.to_bits() { magnitude } else { 0 };
        *largest = finite.max(*largest);
    }
}

multiversioned! {
    fn raise_on[T: Number][T](values: &[T], largest: &mut [u32]) = raise_body
}

/// Rounds `values · factor`; how many overflow.
#[inline(always)]
fn round_body<T: Number>(format: Format, factor: f32, values: &[T], out: &mut [u8]) -> u32 {
    match format {
        Format::E4M3 => round_values::<T, true>(factor, values, out),
        Format::E5M2 => round_values::<T, false>(factor, values, out),
    }
}

#[inline(always)]
fn round_values<T: Number, const E4M3: bool>(factor: f32, values: &[T], out: &mut [u8]) -> u32 {
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
    fn round_on[T: Number][T](
        format: Format, factor: f32, values: &[T], out: &mut [u8]
    ) -> u32 = round_body
}

/// Rounds a row of values, each with the factor of its column.
#[inline(always)]
fn round_columns_body<T: Number>(format: Format, factors: &[f32], values: &[T], out: &mut [u8]) {
    for ((value, factor), out) in values.iter().zip(factors).zip(out) {
        *out = encode(format, (value.widen() * factor).to_bits()).0;
    }
}

multiversioned! {
    fn round_columns_on[T: Number][T](
        format: Format, factors: &[f32], values: &[T], out: &mut [u8]
    ) = round_columns_body
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
