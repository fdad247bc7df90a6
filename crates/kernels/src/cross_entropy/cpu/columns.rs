//! Statistics and gradients of a block of logits, classes in rows and rows in columns.
//!
//! A row of hidden states is a column here, so that the sums over classes of sixteen of them grow
//! side by side. Widths are multiples of 16.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use super::softmax::{capped, slope};
use crate::cpu::lanes::{LANES, Lanes, exp, vectorized};
use crate::cpu::number::Number;

/// Of each column, over the classes that were seen.
#[derive(Debug, Clone)]
pub(super) struct Statistics {
    /// The greatest logit.
    pub(super) greatest: Vec<f32>,
    /// The sum of `e^(logit - greatest)`.
    pub(super) powers: Vec<f32>,
    /// The sum of logits, if it was asked for.
    pub(super) total: Vec<f32>,
    /// The logit of the label, 0 where that was not seen.
    pub(super) hit: Vec<f32>,
}

impl Statistics {
    pub(super) fn new(columns: usize) -> Self {
        let zeros = vec![0.0; columns];
        Self {
            greatest: vec![f32::NEG_INFINITY; columns],
            powers: zeros.clone(),
            total: zeros.clone(),
            hit: zeros,
        }
    }

    /// Joins what was seen of other classes.
    pub(super) fn join(&mut self, other: &Self) {
        for column in 0..self.greatest.len() {
            let (one, two) = (self.greatest[column], other.greatest[column]);
            let greatest = one.max(two);
            let scaled = |powers: f32, of: f32| {
                // Where nothing but -∞ was seen, the powers' sum is 0, or NaN and stays so.
                if of == greatest { powers } else { powers * (of - greatest).exp() }
            };
            self.powers[column] =
                scaled(self.powers[column], one) + scaled(other.powers[column], two);
            self.greatest[column] = greatest;
            self.total[column] += other.total[column];
            self.hit[column] += other.hit[column];
        }
    }
}

vectorized! {
    /// [`take_in`] on `isa`.
    pub(super) fn take_in_on[T: Number][T](
        scores: &[f32],
        bias: &[f32],
        cap: Option<f32>,
        with_total: bool,
        statistics: &mut Statistics,
        logits: &mut [T],
    ) = take_in
}

/// Adds a block to the statistics. `scores`, `[classes, columns]`, become logits with the bias of
/// each class, and are rounded before they count.
#[inline(always)]
fn take_in<V: Lanes, T: Number>(
    scores: &[f32],
    bias: &[f32],
    cap: Option<f32>,
    with_total: bool,
    statistics: &mut Statistics,
    logits: &mut [T],
) {
    let columns = statistics.greatest.len();
    let mut greatest = statistics.greatest.clone();
    let rows = scores.chunks_exact(columns).zip(logits.chunks_exact_mut(columns));
    for ((scores, logits), &bias) in rows.zip(bias) {
        let bias = V::splat(bias);
        for column in (0..columns).step_by(LANES) {
            V::load(&scores[column..]).add(bias).write(&mut logits[column..]);
            let logit = capped(V::read(&logits[column..]), cap);
            logit.max(V::load(&greatest[column..])).store(&mut greatest[column..]);
            if with_total {
                let total = &mut statistics.total[column..];
                V::load(total).add(logit).store(total);
            }
        }
    }
    for column in (0..columns).step_by(LANES) {
        let before = V::load(&statistics.greatest[column..]);
        let least = V::splat(f32::MIN);
        // -∞ less -∞ would be NaN.
        let rise = least.max(before).sub(least.max(V::load(&greatest[column..])));
        let powers = &mut statistics.powers[column..];
        V::load(powers).mul(exp(rise)).store(powers);
    }
    statistics.greatest = greatest;
    for logits in logits.chunks_exact(columns).take(bias.len()) {
        for column in (0..columns).step_by(LANES) {
            let logit = capped(V::read(&logits[column..]), cap);
            let power = exp(logit.sub(V::load(&statistics.greatest[column..])));
            let powers = &mut statistics.powers[column..];
            V::load(powers).add(power).store(powers);
        }
    }
}

/// What the gradients of each column's logits are made with.
#[derive(Debug)]
pub(super) struct Slopes {
    /// The logarithm of the sum of all powers.
    pub(super) log_sum: Vec<f32>,
    /// What a class's share is multiplied with.
    pub(super) factor: Vec<f32>,
    /// What is added for every class.
    pub(super) spread: Vec<f32>,
    /// What is added for the label.
    pub(super) hit: f32,
    /// 1 for columns that count, else 0.
    pub(super) counted: Vec<f32>,
    pub(super) cap: Option<f32>,
}

vectorized! {
    /// [`differentiate`] on `isa`.
    pub(super) fn differentiate_on[T: Number][T](
        logits: &[T],
        slopes: &Slopes,
        grads: &mut [T],
    ) = differentiate
}

/// The gradients of a block's logits, but for the labels' own part.
#[inline(always)]
fn differentiate<V: Lanes, T: Number>(logits: &[T], slopes: &Slopes, grads: &mut [T]) {
    let columns = slopes.log_sum.len();
    for (logits, grads) in logits.chunks_exact(columns).zip(grads.chunks_exact_mut(columns)) {
        for column in (0..columns).step_by(LANES) {
            gradient::<V>(V::read(&logits[column..]), slopes, column, V::splat(0.0))
                .write(&mut grads[column..]);
        }
    }
}

/// The gradient of 16 logits from `column` on.
#[inline(always)]
fn gradient<V: Lanes>(logit: V, slopes: &Slopes, column: usize, hit: V) -> V {
    let value = capped(logit, slopes.cap);
    let share = exp(value.sub(V::load(&slopes.log_sum[column..])));
    let spread = V::load(&slopes.spread[column..]).add(hit);
    let grad = share.mul_add(V::load(&slopes.factor[column..]), spread);
    let counted = V::splat(0.5).below(V::load(&slopes.counted[column..]));
    grad.mul(slope(value, slopes.cap)).select(counted, V::splat(0.0))
}

vectorized! {
    /// [`differentiate_label`] on `isa`.
    pub(super) fn differentiate_label_on[T: Number][T](
        logit: T,
        slopes: &Slopes,
        column: usize,
        grad: &mut T,
    ) = differentiate_label
}

/// The gradient of the logit of a column's label.
#[inline(always)]
fn differentiate_label<V: Lanes, T: Number>(
    logit: T,
    slopes: &Slopes,
    column: usize,
    grad: &mut T,
) {
    let (first, lane) = (column / LANES * LANES, column % LANES);
    let mut values = [0.0; LANES];
    gradient::<V>(V::splat(logit.widen()), slopes, first, V::splat(slopes.hit)).store(&mut values);
    *grad = T::round(values[lane]);
}

vectorized! {
    /// [`sum_rows`] on `isa`.
    pub(super) fn sum_rows_on[T: Number][T](block: &[T], columns: usize, sums: &mut [f32])
        = sum_rows
}

/// The sum of each row.
#[inline(always)]
fn sum_rows<V: Lanes, T: Number>(block: &[T], columns: usize, sums: &mut [f32]) {
    for (row, sum) in block.chunks_exact(columns).zip(sums) {
        let values = row.chunks_exact(LANES);
        *sum = values.fold(V::splat(0.0), |sum, values| sum.add(V::read(values))).sum();
    }
}
