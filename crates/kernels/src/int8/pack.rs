//! Loops over values: largest magnitudes, rounding, and the order of packed bytes.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::int8::Int8Rounding;

use super::MOST;
use super::quantize::{GROUP, PANEL};
use crate::cpu::isa::{Isa, multiversioned};
use crate::cpu::number::{CacheLine, EMPTY, Number};
use crate::cpu::transpose::transpose;

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

/// The bits that BF16 values keep, so that twice as many fill a vector.
#[inline(always)]
fn high_bits<T: Number>(values: &[T]) -> Option<&[u16]> {
    (T::PER_WORD == 2).then(|| bytemuck::cast_slice(values))
}

#[inline(always)]
fn largest_body<T: Number>(values: &[T]) -> u32 {
    match high_bits(values) {
        Some(bits) => {
            u32::from(bits.iter().fold(0, |largest, &bits| (bits & 0x7fff).max(largest))) << 16
        }
        None => values.iter().fold(0, |largest, &value| magnitude(value).max(largest)),
    }
}

multiversioned! {
    /// The largest magnitude, as bits.
    pub(super) fn largest_on[T: Number][T](values: &[T]) -> u32 = largest_body
}

#[inline(always)]
fn raise_body<T: Number>(rows: &[T], largest: &mut [u32]) {
    let cols = largest.len().max(1);
    let mut largest_bits = vec![0u16; if T::PER_WORD == 2 { cols } else { 0 }];
    for row in rows.chunks_exact(cols) {
        match high_bits(row) {
            Some(row) => {
                for (&bits, largest) in row.iter().zip(&mut largest_bits) {
                    *largest = (bits & 0x7fff).max(*largest);
                }
            }
            None => {
                for (&value, largest) in row.iter().zip(largest.iter_mut()) {
                    *largest = magnitude(value).max(*largest);
                }
            }
        }
    }
    for (largest, bits) in largest.iter_mut().zip(largest_bits) {
        *largest = (u32::from(bits) << 16).max(*largest);
    }
}

multiversioned! {
    /// Raises each of `largest` to the greatest magnitude in its column of `rows`.
    pub(super) fn raise_on[T: Number][T](rows: &[T], largest: &mut [u32]) = raise_body
}

/// The integer of a value; its byte are the lowest bits. `place` is the value's in its matrix.
#[inline(always)]
fn integer<const STOCHASTIC: bool>(value: f32, factor: f32, place: u32) -> u32 {
    /// Adding it leaves no bits behind the point, and the integer in the lowest ones.
    const SHIFT: f32 = 1.5 * (1 << 23) as f32;
    // Of a vector's own largest value, at most 127 and its rounding, which is no other integer.
    let mut scaled = value * factor;
    if STOCHASTIC {
        scaled = (scaled + (chance(value.to_bits(), place) - 0.5)).clamp(-MOST, MOST);
    }
    (scaled + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits())
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
    (lines, sums): (&mut [CacheLine], &mut [i32]),
) {
    let out = (lines, sums);
    match task.rounding {
        Int8Rounding::Nearest => pack_rows::<T, false>(task, x, first, factors, out),
        Int8Rounding::Stochastic => pack_rows::<T, true>(task, x, first, factors, out),
    }
}

/// Packs the rows `x`, the first of which is row `first` of the matrix, and sums each up.
#[inline(always)]
fn pack_rows<T: Number, const STOCHASTIC: bool>(
    task: PackingTask,
    x: &[T],
    first: usize,
    factors: &[f32; PANEL],
    (lines, sums): (&mut [CacheLine], &mut [i32]),
) {
    /// Cache lines of a row of bytes in between: all rows of a panel are then 4 KiB.
    const LINES: usize = 4;
    /// Words of such a row, each of them for another line of the panel.
    const TILE: usize = 16 * LINES;
    let cols = task.cols;
    sums.fill(0);
    let mut between = [EMPTY; LINES * PANEL];
    for (tile, lines) in lines.chunks_mut(TILE).enumerate() {
        let col = tile * TILE * GROUP;
        let width = (TILE * GROUP).min(cols - col);
        let rows = bytemuck::cast_slice_mut::<_, u8>(&mut between).chunks_exact_mut(TILE * GROUP);
        for (row, ((bytes, &factor), all)) in rows.zip(factors).zip(&mut *sums).enumerate() {
            let values = &x[row * cols + col..][..width];
            let place = ((first + row) * cols + col) as u32;
            let mut sum = 0i32;
            for (at, (byte, value)) in bytes.iter_mut().zip(values).enumerate() {
                let place = place.wrapping_add(at as u32);
                let integer = integer::<STOCHASTIC>(value.widen(), factor, place);
                *byte = integer as u8;
                sum = sum.wrapping_add(integer as i32);
            }
            *all = all.wrapping_add(sum);
            // Of the tile before, in the last one.
            bytes[width..].fill(0);
        }
        let (from, count) = (bytemuck::cast_slice(&between), lines.len());
        let to = bytemuck::cast_slice_mut(lines);
        transpose(task.isa, (from, TILE), (to, PANEL), PANEL, count);
    }
}

multiversioned! {
    /// Packs the rows `x`, the first of which is row `first` of the matrix, and sums each up.
    pub(super) fn pack_rows_on[T: Number][T](
        task: PackingTask, x: &[T], first: usize, factors: &[f32; PANEL],
        out: (&mut [CacheLine], &mut [i32])
    ) = pack_rows_body
}

#[inline(always)]
fn pack_columns_body<T: Number>(
    task: PackingTask,
    x: &[T],
    place: (usize, usize),
    factors: &[f32; PANEL],
    (lines, sums): (&mut [CacheLine], &mut [i32]),
) {
    let out = (lines, sums);
    match task.rounding {
        Int8Rounding::Nearest => pack_columns::<T, false>(task, x, place, factors, out),
        Int8Rounding::Stochastic => pack_columns::<T, true>(task, x, place, factors, out),
    }
}

/// Packs a part of a panel of columns, as many as there are `sums`, to which it adds: of the
/// matrix `x` what begins at a group of rows and a column.
#[inline(always)]
fn pack_columns<T: Number, const STOCHASTIC: bool>(
    task: PackingTask,
    x: &[T],
    (begin, first): (usize, usize),
    factors: &[f32; PANEL],
    (lines, sums): (&mut [CacheLine], &mut [i32]),
) {
    let PackingTask { rows, cols, .. } = task;
    let mut all = [0; PANEL];
    for (group, line) in lines.iter_mut().enumerate() {
        let mut words = [0; PANEL];
        let row = (begin + group) * GROUP;
        // Of a fixed number of rows, so that all stays in registers.
        if row + GROUP <= rows {
            for at in 0..GROUP {
                let place = (row + at) * cols + first;
                let values = widened(&x[place..], sums.len());
                add_bytes::<STOCHASTIC>((&mut words, &mut all), at, (&values, factors), place);
            }
        } else {
            for at in 0..rows - row {
                let place = (row + at) * cols + first;
                let values = widened(&x[place..], sums.len());
                add_bytes::<STOCHASTIC>((&mut words, &mut all), at, (&values, factors), place);
            }
        }
        line.0 = words;
    }
    for (sum, part) in sums.iter_mut().zip(all) {
        *sum = sum.wrapping_add(part);
    }
}

/// The first `count` values, and zeros after them.
#[inline(always)]
fn widened<T: Number>(values: &[T], count: usize) -> [f32; PANEL] {
    let mut wide = [0.0; PANEL];
    match values.first_chunk::<PANEL>() {
        Some(values) if count == PANEL => {
            for (wide, value) in wide.iter_mut().zip(values) {
                *wide = value.widen();
            }
        }
        _ => {
            for (wide, value) in wide.iter_mut().zip(&values[..count]) {
                *wide = value.widen();
            }
        }
    }
    wide
}

/// Puts the bytes of sixteen values, the first of them at `place` in its matrix, to the place `at`
/// in the words of a line, and adds them to the sums.
#[inline(always)]
fn add_bytes<const STOCHASTIC: bool>(
    (words, sums): (&mut [u32; PANEL], &mut [i32; PANEL]),
    at: usize,
    (values, factors): (&[f32; PANEL], &[f32; PANEL]),
    place: usize,
) {
    for lane in 0..PANEL {
        let place = place.wrapping_add(lane) as u32;
        let integer = integer::<STOCHASTIC>(values[lane], factors[lane], place);
        sums[lane] = sums[lane].wrapping_add(integer as i32);
        words[lane] |= (integer & 0xff) << (8 * at);
    }
}

multiversioned! {
    /// Packs a part of a panel of columns, as many as there are sums, to which it adds: of the
    /// matrix `x` what begins at a group of rows and a column.
    pub(super) fn pack_columns_on[T: Number][T](
        task: PackingTask, x: &[T], place: (usize, usize), factors: &[f32; PANEL],
        out: (&mut [CacheLine], &mut [i32])
    ) = pack_columns_body
}
