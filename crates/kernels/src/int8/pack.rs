//! Loops over values: largest magnitudes, rounding, and the order of packed bytes.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::int8::Int8Rounding;

use super::MOST;
use super::quantize::{GROUP, PANEL};
use crate::cpu::isa::{Isa, multiversioned};
use crate::cpu::number::{CacheLine, EMPTY, Number};

/// What is the same for all parts of a matrix.
#[derive(Clone, Copy)]
pub(super) struct PackingTask {
    pub(super) isa: Isa,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) rounding: Int8Rounding,
}

/// Bits of a magnitude; as integers they have the order of the numbers, above them infinity and
/// NaN.
#[inline(always)]
fn magnitude<T: Number>(value: T) -> u32 {
    value.widen().to_bits() & 0x7fff_ffff
}

#[inline(always)]
fn largest_body<T: Number>(values: &[T]) -> u32 {
    values.iter().fold(0, |largest, &value| magnitude(value).max(largest))
}

multiversioned! {
    /// The largest magnitude, as bits.
    pub(super) fn largest_on[T: Number][T](values: &[T]) -> u32 = largest_body
}

#[inline(always)]
fn raise_body<T: Number>(values: &[T], largest: &mut [u32]) {
    for (&value, largest) in values.iter().zip(largest) {
        *largest = magnitude(value).max(*largest);
    }
}

multiversioned! {
    /// Raises each of `largest` to the magnitude in its column.
    pub(super) fn raise_on[T: Number][T](values: &[T], largest: &mut [u32]) = raise_body
}

/// The byte of a value, in the lowest bits of a word. `place` is the value's in its matrix.
#[inline(always)]
fn byte<const STOCHASTIC: bool>(value: f32, factor: f32, place: u32) -> u32 {
    /// Adding it leaves no bits behind the point, and the integer in the lowest ones.
    const SHIFT: f32 = 1.5 * (1 << 23) as f32;
    let mut scaled = value * factor;
    if STOCHASTIC {
        scaled += chance(value.to_bits(), place) - 0.5;
    }
    (scaled.clamp(-MOST, MOST) + SHIFT).to_bits() & 0xff
}

/// A number from 0 to below 1, by a hash.
#[inline(always)]
fn chance(bits: u32, place: u32) -> f32 {
    let mut hash = bits.wrapping_mul(0x9e37_79b1) ^ place.wrapping_mul(0x85eb_ca77);
    hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
    hash = (hash ^ (hash >> 12)).wrapping_mul(0x297a_2d39);
    ((hash ^ (hash >> 15)) >> 8) as i32 as f32 * (1.0 / (1 << 24) as f32)
}

#[inline(always)]
fn pack_rows_body<T: Number>(
    task: PackingTask,
    x: &[T],
    first: usize,
    factors: &[f32; PANEL],
    lines: &mut [CacheLine],
) {
    match task.rounding {
        Int8Rounding::Nearest => pack_rows::<T, false>(task, x, first, factors, lines),
        Int8Rounding::Stochastic => pack_rows::<T, true>(task, x, first, factors, lines),
    }
}

/// Packs the rows `x`, the first of which is row `first` of the matrix.
#[inline(always)]
fn pack_rows<T: Number, const STOCHASTIC: bool>(
    task: PackingTask,
    x: &[T],
    first: usize,
    factors: &[f32; PANEL],
    lines: &mut [CacheLine],
) {
    /// Lines at a time: a row of bytes in between is then four cache lines.
    const TILE: usize = 64;
    let (cols, count) = (task.cols, x.len().checked_div(task.cols).unwrap_or(0));
    for (tile, lines) in lines.chunks_mut(TILE).enumerate() {
        if count < PANEL {
            lines.fill(EMPTY);
        }
        let col = tile * TILE * GROUP;
        let width = (TILE * GROUP).min(cols - col);
        for (row, &factor) in factors.iter().enumerate().take(count) {
            let mut bytes = [0u8; TILE * GROUP];
            let values = &x[row * cols + col..][..width];
            let place = ((first + row) * cols + col) as u32;
            for (at, (byte_out, value)) in bytes.iter_mut().zip(values).enumerate() {
                let place = place.wrapping_add(at as u32);
                *byte_out = byte::<STOCHASTIC>(value.widen(), factor, place) as u8;
            }
            for (line, group) in lines.iter_mut().zip(bytes.as_chunks::<GROUP>().0) {
                line.0[row] = u32::from_le_bytes(*group);
            }
        }
    }
}

multiversioned! {
    /// Packs the rows `x`, the first of which is row `first` of the matrix.
    pub(super) fn pack_rows_on[T: Number][T](
        task: PackingTask, x: &[T], first: usize, factors: &[f32; PANEL], lines: &mut [CacheLine]
    ) = pack_rows_body
}

#[inline(always)]
fn pack_columns_body<T: Number>(
    task: PackingTask,
    x: &[T],
    first: usize,
    factors: &[f32],
    lines: &mut [CacheLine],
) {
    match task.rounding {
        Int8Rounding::Nearest => pack_columns::<T, false>(task, x, first, factors, lines),
        Int8Rounding::Stochastic => pack_columns::<T, true>(task, x, first, factors, lines),
    }
}

/// Packs the columns of `x` from `first` on, as many as there are `factors`.
#[inline(always)]
fn pack_columns<T: Number, const STOCHASTIC: bool>(
    task: PackingTask,
    x: &[T],
    first: usize,
    factors: &[f32],
    lines: &mut [CacheLine],
) {
    let PackingTask { rows, cols, .. } = task;
    let groups = rows.div_ceil(GROUP);
    for group in 0..groups {
        for (panel, factors) in factors.chunks(PANEL).enumerate() {
            let mut line = EMPTY;
            let col = first + panel * PANEL;
            for at in 0..GROUP.min(rows - group * GROUP) {
                let start = (group * GROUP + at) * cols + col;
                let values = &x[start..][..factors.len()];
                // Of a fixed number of columns, so that they fill vectors.
                match (values.first_chunk(), factors.first_chunk()) {
                    (Some::<&[T; PANEL]>(values), Some::<&[f32; PANEL]>(factors)) => {
                        let operands = (&values[..], &factors[..]);
                        add_bytes::<T, STOCHASTIC>(&mut line, at, start, operands);
                    }
                    _ => add_bytes::<T, STOCHASTIC>(&mut line, at, start, (values, factors)),
                }
            }
            lines[panel * groups + group] = line;
        }
    }
}

/// Puts the bytes of up to sixteen values, the first of them at `place` in its matrix, to the place
/// `at` in the words of a line.
#[inline(always)]
fn add_bytes<T: Number, const STOCHASTIC: bool>(
    line: &mut CacheLine,
    at: usize,
    place: usize,
    (values, factors): (&[T], &[f32]),
) {
    for (lane, (value, factor)) in values.iter().zip(factors).enumerate() {
        let bits = byte::<STOCHASTIC>(value.widen(), *factor, (place + lane) as u32);
        line.0[lane] |= bits << (8 * at);
    }
}

multiversioned! {
    /// Packs the columns of `x` from `first` on, as many as there are `factors`.
    pub(super) fn pack_columns_on[T: Number][T](
        task: PackingTask, x: &[T], first: usize, factors: &[f32], lines: &mut [CacheLine]
    ) = pack_columns_body
}

/// The sum of each vector of a panel.
#[inline(always)]
fn sum_lines_body(lines: &[CacheLine], sums: &mut [i32]) {
    let mut all = [0i32; PANEL];
    for line in lines {
        for (sum, word) in all.iter_mut().zip(line.0) {
            let word = word as i32;
            *sum += (word << 24 >> 24) + (word << 16 >> 24) + (word << 8 >> 24) + (word >> 24);
        }
    }
    sums.copy_from_slice(&all[..sums.len()]);
}

multiversioned! {
    /// The sum of each vector of a panel.
    pub(super) fn sum_lines_on[][](lines: &[CacheLine], sums: &mut [i32]) = sum_lines_body
}
