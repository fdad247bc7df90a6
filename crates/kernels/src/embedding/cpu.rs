//! The gradient of a table on the CPU: only the rows that were looked up.

#![expect(unsafe_code, reason = "one tensor written by many, and calls by instruction set")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Result, Tensor, parallel};

use super::OP;
use crate::cpu::isa::Isa;
use crate::cpu::lanes::{LANES, Lanes, vectorized};
use crate::cpu::number::Number;
use crate::cpu::tail::{read, whole, write};
use crate::cpu::views::{self, SharedSlice};

/// Places that a task takes, about.
const POSITIONS: usize = 64;

/// Where each id was looked up.
struct Runs {
    /// In ascending order, each once.
    ids: Vec<i64>,
    /// All positions, those of an id behind those of the id before it.
    positions: Vec<usize>,
    /// Where the positions of each id end.
    ends: Vec<usize>,
}

impl Runs {
    fn of(ids: &[i64], padding: Option<i64>) -> Self {
        let mut positions: Vec<usize> =
            (0..ids.len()).filter(|&position| Some(ids[position]) != padding).collect();
        positions.sort_by_key(|&position| ids[position]);
        let mut runs = Self { ids: Vec::new(), positions, ends: Vec::new() };
        for (index, &position) in runs.positions.iter().enumerate() {
            if runs.ids.last() != Some(&ids[position]) {
                runs.ids.push(ids[position]);
                runs.ends.push(index);
            }
            if let Some(end) = runs.ends.last_mut() {
                *end = index + 1;
            }
        }
        runs
    }

    /// The positions of id number `index`.
    fn positions(&self, index: usize) -> &[usize] {
        let first = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.positions[first..self.ends[index]]
    }

    /// Parts of the ids with about [`POSITIONS`] positions each.
    fn tasks(&self) -> Vec<std::ops::Range<usize>> {
        let mut tasks = Vec::new();
        let (mut first, mut before) = (0, 0);
        for (index, &end) in self.ends.iter().enumerate() {
            if end - before >= POSITIONS || index + 1 == self.ends.len() {
                tasks.push(first..index + 1);
                (first, before) = (index + 1, end);
            }
        }
        tasks
    }
}

/// The gradient of a table of `entries` rows, sparse.
pub(super) fn sum_rows<T: Number>(
    isa: Isa,
    grad: &Tensor,
    ids: &Tensor,
    entries: i64,
    padding: Option<i64>,
) -> Result<Tensor> {
    let features = grad.size().last().copied().unwrap_or(0);
    let options = (grad.kind(), grad.device());
    let runs = Runs::of(views::read(ids, "ids")?, padding);
    let count = runs.ids.len();
    let mut values = Tensor::f_empty([count as i64, features], options).during(OP)?;
    let position_grads: &[T] = views::read(grad, "a gradient of lookups")?;
    let out = SharedSlice::new(views::write::<T>(&mut values, "a gradient of a table")?);
    let width = features as usize;
    parallel::for_each_of(runs.tasks(), |part| {
        // SAFETY: each task has ids of its own.
        let out = unsafe { out.part(part.start * width, part.len() * width) };
        sum_on::<T>(isa, position_grads, &runs, part, out);
    });
    let indices = Tensor::f_from_slice(&runs.ids).during(OP)?.f_view([1, -1]).during(OP)?;
    let size = [entries, features];
    Tensor::f_internal_sparse_coo_tensor_unsafe(&indices, &values, size, options, true).during(OP)
}

vectorized! {
    /// [`sum_some`] on `isa`.
    fn sum_on[T: Number][T](
        position_grads: &[T],
        runs: &Runs,
        part: std::ops::Range<usize>,
        out: &mut [T],
    ) = sum_some
}

/// The rows of some ids.
#[inline(always)]
fn sum_some<V: Lanes, T: Number>(
    position_grads: &[T],
    runs: &Runs,
    part: std::ops::Range<usize>,
    out: &mut [T],
) {
    let features = out.len() / part.len();
    if features == 0 {
        return;
    }
    for (index, row) in part.zip(out.chunks_exact_mut(features)) {
        let positions = runs.positions(index);
        let end = whole(features);
        for first in (0..end).step_by(LANES) {
            let columns = first..first + LANES;
            let sum =
                column_sums::<V, T, false>(position_grads, features, positions, columns.clone());
            write::<V, T, false>(sum, &mut row[columns]);
        }
        if end < features {
            let sum = column_sums::<V, T, true>(position_grads, features, positions, end..features);
            write::<V, T, true>(sum, &mut row[end..]);
        }
    }
}

/// The sums of some columns over `positions`.
#[inline(always)]
fn column_sums<V: Lanes, T: Number, const TAIL: bool>(
    position_grads: &[T],
    features: usize,
    positions: &[usize],
    columns: std::ops::Range<usize>,
) -> V {
    let mut sum = V::splat(0.0);
    for position in positions {
        let row = &position_grads[position * features..(position + 1) * features];
        sum = sum.add(read::<V, T, TAIL>(&row[columns.clone()]));
    }
    sum
}
