//! After the products, on the CPU: weights decay and move by the polar factor.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::{Kind, Result, Tensor, parallel};
use half::bf16;

use super::TILE;
use crate::cpu::isa::{Isa, multiversioned};
use crate::cpu::number::Number;
use crate::cpu::views;
use crate::muon::{MuonKernelScalars, OP, UpdateArgs, is_transposed};
use crate::weight::{MasterSlices, ResidualSlices, SingleSlices, Weight, WeightSlices, same_count};

/// [`UpdateArgs`] with its scalars read.
struct UpdateFactors<'a> {
    row: &'a [f32],
    col: &'a [f32],
    step: f32,
    decay_factor: f32,
    cautious: bool,
}

/// See [`crate::muon::apply_update`], which has checked the shapes; `rows` by `cols` are the
/// weight's.
pub(in crate::muon) fn apply_update(
    args: &UpdateArgs<'_>,
    o_nm: &Tensor,
    weight: Weight<'_>,
    sides: (usize, usize),
) -> Result<()> {
    match o_nm.kind() {
        Kind::BFloat16 => apply_with::<bf16>(args, o_nm, weight, sides),
        _ => apply_with::<f32>(args, o_nm, weight, sides),
    }
}

fn apply_with<O: Number>(
    numbers: &UpdateArgs<'_>,
    o_nm: &Tensor,
    weight: Weight<'_>,
    (rows, cols): (usize, usize),
) -> Result<()> {
    let MuonKernelScalars { lr, decay_factor, .. } = MuonKernelScalars::read(numbers.numbers)?;
    let ones = vec![1.0; rows.max(cols)];
    let side = |factors: Option<_>, count: usize| match factors {
        None => Ok(&ones[..count]),
        Some(factors) => views::read(factors, "factors of a side"),
    };
    let (row, col) = (side(numbers.row, rows)?, side(numbers.col, cols)?);
    let (step, cautious) = (lr * numbers.factor, numbers.cautious);
    let numbers = &UpdateFactors { row, col, step, decay_factor, cautious };
    let o: &[O] = views::read(o_nm, "a polar factor")?;
    let count = rows * cols;
    match weight {
        Weight::Single(weight) => {
            let weight = views::write(weight, "a weight")?;
            same_count(OP, count, weight.len(), "weight")?;
            apply_to(numbers, o, SingleSlices(weight));
        }
        Weight::Master { master, weight } => {
            let master = views::write(master, "a master weight")?;
            let weight = views::write(weight, "a weight")?;
            same_count(OP, count, master.len(), "master weight")?;
            same_count(OP, count, weight.len(), "weight")?;
            apply_to(numbers, o, MasterSlices { master, weight });
        }
        Weight::Bf16Residual { weight, residual: low } => {
            let weight = views::write(weight, "a weight")?;
            let low = views::write(low, "low bits of a weight")?;
            same_count(OP, count, weight.len(), "weight")?;
            same_count(OP, count, low.len(), "low bits")?;
            apply_to(numbers, o, ResidualSlices { weight, low });
        }
    }
    Ok(())
}

fn apply_to<O: Number, W: WeightSlices>(numbers: &UpdateFactors<'_>, o: &[O], mut weight: W) {
    let (rows, cols) = (numbers.row.len(), numbers.col.len());
    let isa = Isa::fastest();
    let mut bands = Vec::with_capacity(rows.div_ceil(TILE));
    for row in (0..rows).step_by(TILE) {
        let (band, rest) = weight.split_at(TILE.min(rows - row) * cols);
        bands.push((row, band));
        weight = rest;
    }
    parallel::for_each_of(bands, |(row, mut band)| {
        if is_transposed(rows, cols) {
            apply_transposed(isa, numbers, o, row, &mut band);
        } else {
            apply_straight(isa, numbers, o, row, &mut band);
        }
    });
}

/// One row of a band: `values` are its part of `o`, from `col` on.
#[inline(always)]
fn apply_row<W: WeightSlices, const CAUTIOUS: bool>(
    numbers: &UpdateFactors<'_>,
    at: (usize, usize, usize),
    values: impl Iterator<Item = f32>,
    band: &mut W,
) {
    let (row, start, col) = at;
    let factor = numbers.step * numbers.row[row];
    for (i, (o, column)) in values.zip(&numbers.col[col..]).enumerate() {
        let u = factor * column * o;
        let p = band.load(start + i);
        let decay_factor = if CAUTIOUS && u * p < 0.0 { 1.0 } else { numbers.decay_factor };
        band.store(start + i, p * decay_factor - u);
    }
}

#[inline(always)]
fn apply_straight_body<O: Number, W: WeightSlices>(
    numbers: &UpdateFactors<'_>,
    o: &[O],
    first: usize,
    band: &mut W,
) {
    let cols = numbers.col.len();
    let height = TILE.min(numbers.row.len() - first);
    for i in 0..height {
        let row = first + i;
        let values = o[row * cols..][..cols].iter().map(|o| o.widen());
        if numbers.cautious {
            apply_row::<W, true>(numbers, (row, i * cols, 0), values, band);
        } else {
            apply_row::<W, false>(numbers, (row, i * cols, 0), values, band);
        }
    }
}

multiversioned! {
    /// Applies a band of rows of a factor that lies as the weight does.
    fn apply_straight[O: Number, W: WeightSlices][O, W](
        numbers: &UpdateFactors<'_>, o: &[O], first: usize, band: &mut W,
    ) = apply_straight_body
}

#[inline(always)]
fn apply_transposed_body<O: Number, W: WeightSlices>(
    numbers: &UpdateFactors<'_>,
    o: &[O],
    first: usize,
    band: &mut W,
) {
    let (rows, cols) = (numbers.row.len(), numbers.col.len());
    let height = TILE.min(rows - first);
    let mut tile = [[0f32; TILE]; TILE];
    for col in (0..cols).step_by(TILE) {
        let width = TILE.min(cols - col);
        for j in 0..width {
            let column = &o[(col + j) * rows + first..][..height];
            for (tile, o) in tile.iter_mut().zip(column) {
                tile[j] = o.widen();
            }
        }
        for (i, tile) in tile.iter().enumerate().take(height) {
            let (row, values) = (first + i, tile[..width].iter().copied());
            let at = (row, i * cols + col, col);
            if numbers.cautious {
                apply_row::<W, true>(numbers, at, values, band);
            } else {
                apply_row::<W, false>(numbers, at, values, band);
            }
        }
    }
}

multiversioned! {
    /// Applies a band of rows of a factor that lies transposed.
    fn apply_transposed[O: Number, W: WeightSlices][O, W](
        numbers: &UpdateFactors<'_>, o: &[O], first: usize, band: &mut W,
    ) = apply_transposed_body
}
