//! The backward pass: rows go through in blocks, each with its own sums for weight and bias.

#![expect(unsafe_code, reason = "one tensor written by many, and calls by instruction set")]

use crate::cpu::isa::Isa;
use crate::cpu::lanes::{LANES, Lanes, vectorized};
use crate::cpu::number::Number;
use crate::cpu::tail::{read, whole, write};
use crate::cpu::views::{self, SharedSlice};
use crate::norm::{InputGrads, NormKind, OP, OutputGrads};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Result, Tensor, parallel};

/// Rows of a block, at least.
const ROWS: usize = 32;

/// Blocks, at most: as many sums are kept. Not the number of threads, so that results do not
/// depend on it.
const BLOCKS: usize = 64;

/// Rows that go through side by side: sums of columns are read and written once for all.
const ABREAST: usize = 4;

/// What is read of all rows, or of some.
#[derive(Clone, Copy)]
struct GradRows<'a, T> {
    norm_kind: NormKind,
    weight: &'a [T],
    /// What was normalised.
    sum: &'a [T],
    statistics: &'a [f32],
    normed_grad: &'a [T],
    twin_grad: Option<&'a [T]>,
    sum_grad: Option<&'a [T]>,
}

impl<'a, T> GradRows<'a, T> {
    /// `count` rows from `first` on.
    #[inline(always)]
    fn part(self, first: usize, count: usize) -> Self {
        let features = self.weight.len();
        let part = first * features..(first + count) * features;
        Self {
            sum: &self.sum[part.clone()],
            statistics: &self.statistics[2 * first..2 * (first + count)],
            normed_grad: &self.normed_grad[part.clone()],
            twin_grad: self.twin_grad.map(|of| &of[part.clone()]),
            sum_grad: self.sum_grad.map(|of| &of[part]),
            ..self
        }
    }
}

/// Dense inputs of `T`, as the forward pass saved them.
pub(crate) fn backward<T: Number>(
    isa: Isa,
    norm_kind: NormKind,
    weight: &Tensor,
    sum: &Tensor,
    statistics: &Tensor,
    of: &OutputGrads,
) -> Result<InputGrads> {
    let mut found = InputGrads {
        sum: sum.f_empty_like().during(OP)?,
        weight: weight.f_empty_like().during(OP)?,
        bias: weight.f_empty_like().during(OP)?,
    };
    let [_, twin, sum_grad] = of.checked(sum)?;
    let all = GradRows::<T> {
        norm_kind,
        weight: views::read(weight, "a norm's weight")?,
        sum: views::read(sum, "a norm's input")?,
        statistics: views::read(statistics, "statistics")?,
        normed_grad: views::read(&of.normed, "a norm's gradient")?,
        twin_grad: read_if_any(twin)?,
        sum_grad: read_if_any(sum_grad)?,
    };
    let out = views::write::<T>(&mut found.sum, "a gradient")?;
    let sums = blocks(isa, &all, out);
    add_up(&sums, views::write::<T>(&mut found.weight, "a gradient")?, 0);
    add_up(&sums, views::write::<T>(&mut found.bias, "a gradient")?, 1);
    Ok(found)
}

fn read_if_any<T: Number>(of: Option<&Tensor>) -> Result<Option<&[T]>> {
    of.map(|of| views::read(of, "a norm's gradient")).transpose()
}

/// Writes the gradient of what was normalised; gives the blocks' sums for weight and bias, in two
/// halves each.
fn blocks<T: Number>(isa: Isa, all: &GradRows<'_, T>, out: &mut [T]) -> Vec<Vec<f32>> {
    let features = all.weight.len();
    let rows = out.len().checked_div(features).unwrap_or(0);
    let size = ROWS.max(rows.div_ceil(BLOCKS));
    let out = SharedSlice::new(out);
    parallel::map(rows.div_ceil(size), |block| {
        let first = block * size;
        let count = size.min(rows - first);
        // SAFETY: each block has rows of its own.
        let out = unsafe { out.part(first * features, count * features) };
        let mut sums = vec![0.0; 2 * features];
        let (weight_grad, bias_grad) = sums.split_at_mut(features);
        backward_on::<T>(isa, all.part(first, count), out, weight_grad, bias_grad);
        sums
    })
}

/// The sum of a half of all blocks' sums, in their order.
fn add_up<T: Number>(sums: &[Vec<f32>], out: &mut [T], half: usize) {
    let features = out.len();
    let mut total = vec![0f32; features];
    for sums in sums {
        let part = &sums[half * features..(half + 1) * features];
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    out.iter_mut().zip(total).for_each(|(out, total)| *out = T::round(total));
}

vectorized! {
    /// [`some_rows`] on `isa`.
    fn backward_on[T: Number][T](
        rows: GradRows<'_, T>,
        out: &mut [T],
        weight_grad: &mut [f32],
        bias_grad: &mut [f32],
    ) = some_rows
}

/// The gradients of some rows, and what they add to those of weight and bias.
#[inline(always)]
fn some_rows<V: Lanes, T: Number>(
    rows: GradRows<'_, T>,
    out: &mut [T],
    weight_grad: &mut [f32],
    bias_grad: &mut [f32],
) {
    let features = rows.weight.len();
    let count = out.len() / features;
    let mut first = 0;
    while first < count {
        let from = first * features;
        if first + ABREAST <= count {
            let (part, out) =
                (rows.part(first, ABREAST), &mut out[from..from + ABREAST * features]);
            abreast::<V, T, ABREAST>(part, out, weight_grad, bias_grad);
            first += ABREAST;
        } else {
            let (part, out) = (rows.part(first, 1), &mut out[from..from + features]);
            abreast::<V, T, 1>(part, out, weight_grad, bias_grad);
            first += 1;
        }
    }
}

/// [`some_rows`] of `R` rows.
#[inline(always)]
fn abreast<V: Lanes, T: Number, const R: usize>(
    rows: GradRows<'_, T>,
    out: &mut [T],
    weight_grad: &mut [f32],
    bias_grad: &mut [f32],
) {
    let features = rows.weight.len();
    let (means, scales) = (
        std::array::from_fn(|row| V::splat(rows.statistics[2 * row])),
        std::array::from_fn(|row| V::splat(rows.statistics[2 * row + 1])),
    );
    let mut sums = RowSums { means, scales, plain: [V::splat(0.0); R], with_z: [V::splat(0.0); R] };
    let whole = whole(features);
    for i in (0..whole).step_by(LANES) {
        sums.add::<T, false>(rows, i..i + LANES, weight_grad, bias_grad);
    }
    if whole < features {
        sums.add::<T, true>(rows, whole..features, weight_grad, bias_grad);
    }
    let mean = |sum: V| V::splat(sum.sum() / features as f32);
    let with_z = sums.with_z.map(mean);
    let plain = match rows.norm_kind {
        NormKind::Layer => sums.plain.map(mean),
        NormKind::Rms => [V::splat(0.0); R],
    };
    for i in (0..whole).step_by(LANES) {
        write_columns::<V, T, R, false>(rows, (&sums, &plain, &with_z), i..i + LANES, out);
    }
    if whole < features {
        write_columns::<V, T, R, true>(rows, (&sums, &plain, &with_z), whole..features, out);
    }
}

/// Statistics of `R` rows, and their sums of `g` and of `g z`.
struct RowSums<V, const R: usize> {
    means: [V; R],
    scales: [V; R],
    plain: [V; R],
    with_z: [V; R],
}

/// `z` and the gradient of the norm at some columns of a row. Beyond its end the gradient is 0.
#[inline(always)]
fn at<V: Lanes, T: Number, const TAIL: bool>(
    rows: GradRows<'_, T>,
    place: std::ops::Range<usize>,
    mean: V,
    scale: V,
) -> (V, V) {
    let z = read::<V, T, TAIL>(&rows.sum[place.clone()]).sub(mean).mul(scale);
    let mut grad = read::<V, T, TAIL>(&rows.normed_grad[place.clone()]);
    if let Some(twin) = rows.twin_grad {
        // Rounded, as where libtorch adds them: so blocks that are computed again, between which
        // it does, give the same.
        let sum = grad.add(read::<V, T, TAIL>(&twin[place]));
        let mut rounded = [T::zeroed(); LANES];
        sum.write(&mut rounded);
        grad = V::read(&rounded);
    }
    (z, grad)
}

impl<V: Lanes, const R: usize> RowSums<V, R> {
    #[inline(always)]
    fn add<T: Number, const TAIL: bool>(
        &mut self,
        rows: GradRows<'_, T>,
        columns: std::ops::Range<usize>,
        weight_grad: &mut [f32],
        bias_grad: &mut [f32],
    ) {
        let features = rows.weight.len();
        let weight = read::<V, T, TAIL>(&rows.weight[columns.clone()]);
        let mut weight_grad_sum = read::<V, f32, TAIL>(&weight_grad[columns.clone()]);
        let mut bias_grad_sum = read::<V, f32, TAIL>(&bias_grad[columns.clone()]);
        for row in 0..R {
            let place = row * features + columns.start..row * features + columns.end;
            let (z, grad) = at::<V, T, TAIL>(rows, place, self.means[row], self.scales[row]);
            let weighted = grad.mul(weight);
            self.plain[row] = self.plain[row].add(weighted);
            self.with_z[row] = weighted.mul_add(z, self.with_z[row]);
            weight_grad_sum = grad.mul_add(z, weight_grad_sum);
            bias_grad_sum = bias_grad_sum.add(grad);
        }
        write::<V, f32, TAIL>(weight_grad_sum, &mut weight_grad[columns.clone()]);
        write::<V, f32, TAIL>(bias_grad_sum, &mut bias_grad[columns]);
    }
}

/// Writes the gradient of what was normalised, at some columns of `R` rows, from the means of `g`
/// and of `g z`.
#[inline(always)]
fn write_columns<V: Lanes, T: Number, const R: usize, const TAIL: bool>(
    rows: GradRows<'_, T>,
    (sums, plain, with_z): (&RowSums<V, R>, &[V; R], &[V; R]),
    columns: std::ops::Range<usize>,
    out: &mut [T],
) {
    let features = rows.weight.len();
    let weight = read::<V, T, TAIL>(&rows.weight[columns.clone()]);
    for row in 0..R {
        let place = row * features + columns.start..row * features + columns.end;
        let (mean, scale) = (sums.means[row], sums.scales[row]);
        let (z, grad) = at::<V, T, TAIL>(rows, place.clone(), mean, scale);
        let off = z.mul_add(with_z[row], plain[row]);
        let found = grad.mul(weight).sub(off).mul(scale);
        let found = match rows.sum_grad {
            None => found,
            Some(sum_grad) => found.add(read::<V, T, TAIL>(&sum_grad[place.clone()])),
        };
        write::<V, T, TAIL>(found, &mut out[place]);
    }
}
