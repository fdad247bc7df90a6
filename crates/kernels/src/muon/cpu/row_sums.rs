//! Sums of squares of a polar factor's rows or columns, on the CPU.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Result, Tensor, parallel};
use half::bf16;

use super::{LANES, TILE};
use crate::cpu::isa::{Isa, multiversioned};
use crate::cpu::number::Number;
use crate::cpu::views;
use crate::muon::OP;

/// See [`crate::muon::sums_of_squares`]; `o_rc` has `cols` columns.
pub(in crate::muon) fn sums_of_squares(
    o_rc: &Tensor,
    of_columns: bool,
    cols: usize,
) -> Result<Tensor> {
    let sums = match o_rc.kind() {
        Kind::BFloat16 => sums_with::<bf16>(o_rc, of_columns, cols),
        _ => sums_with::<f32>(o_rc, of_columns, cols),
    };
    Tensor::f_from_slice(&sums?).during(OP)
}

fn sums_with<O: Number>(o_rc: &Tensor, of_columns: bool, cols: usize) -> Result<Vec<f32>> {
    let o: &[O] = views::read(o_rc, "a polar factor")?;
    let isa = Isa::fastest();
    if !of_columns {
        let bands = o.chunks(TILE * cols.max(1)).collect();
        let sums_of = |band: &[O]| -> Vec<f32> {
            band.chunks(cols.max(1)).map(|row| sum_row(isa, row)).collect()
        };
        return Ok(parallel::map_of(bands, sums_of).concat());
    }
    let bands = o.chunks(TILE * cols.max(1)).collect();
    let parts = parallel::map_of(bands, |rows: &[O]| {
        let mut sums = vec![0f32; cols];
        rows.chunks(cols.max(1)).for_each(|row| add_squares(isa, row, &mut sums));
        sums
    });
    let mut total = vec![0f32; cols];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    Ok(total)
}

#[inline(always)]
fn sum_row_body<O: Number>(row: &[O]) -> f32 {
    let mut sums = [0f32; LANES];
    for values in row.chunks(LANES) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value.widen() * value.widen();
        }
    }
    sums.iter().sum()
}

multiversioned! {
    /// Sum of squares.
    fn sum_row[O: Number][O](row: &[O]) -> f32 = sum_row_body
}

#[inline(always)]
fn add_squares_body<O: Number>(row: &[O], sums: &mut [f32]) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += value.widen() * value.widen();
    }
}

multiversioned! {
    /// Adds squares to sums.
    fn add_squares[O: Number][O](row: &[O], sums: &mut [f32]) = add_squares_body
}
