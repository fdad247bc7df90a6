//! The forward pass: sum, statistics and norm of some rows at a time.

#![expect(unsafe_code, reason = "one tensor written by many, and calls by instruction set")]

use crate::cpu::isa::Isa;
use crate::cpu::lanes::{LANES, Lanes, vectorized};
use crate::cpu::number::Number;
use crate::cpu::tail::{read, whole, write};
use crate::cpu::views::{self, SharedSlice};
use crate::norm::{NormKind, NormOutputs};
use bert4rs_tensor_core::{Result, Tensor, parallel};

/// Rows that a task takes.
const ROWS: usize = 32;

/// Rows that are summed side by side, so that additions do not wait for each other.
const ABREAST: usize = 4;

/// A norm's numbers.
#[derive(Clone, Copy)]
struct Affine<'a, T> {
    norm_kind: NormKind,
    eps: f32,
    weight: &'a [T],
    bias: Option<&'a [T]>,
}

/// Dense inputs of `T`, whose shapes were checked.
pub(crate) fn forward<T: Number>(
    isa: Isa,
    norm_kind: NormKind,
    eps: f32,
    (weight, bias): (&Tensor, Option<&Tensor>),
    x: &Tensor,
    y: Option<&Tensor>,
) -> Result<NormOutputs> {
    let weight: &[T] = views::read(weight, "a norm's weight")?;
    let bias = bias.map(|bias| views::read(bias, "a norm's bias")).transpose()?;
    let affine = Affine { norm_kind, eps, weight, bias };
    let features = weight.len();
    let rows = x.numel().checked_div(features).unwrap_or(0);
    let mut found = NormOutputs::empty(x, y.is_some(), rows as i64)?;
    let x: &[T] = views::read(x, "a norm's input")?;
    let y: Option<&[T]> = y.map(|y| views::read(y, "a norm's second summand")).transpose()?;
    let normed_out = SharedSlice::new(views::write::<T>(&mut found.normed, "a norm")?);
    let sum_out = found.sum.as_mut().map(|sum| views::write::<T>(sum, "a sum")).transpose()?;
    let sum_out = sum_out.map(SharedSlice::new);
    let statistics_out =
        SharedSlice::new(views::write::<f32>(&mut found.statistics, "statistics")?);
    parallel::for_each(rows.div_ceil(ROWS), |task| {
        let first = task * ROWS;
        let count = ROWS.min(rows - first);
        let (from, length) = (first * features, count * features);
        let part = from..from + length;
        // SAFETY: each task has rows of its own.
        let (sum, out) = unsafe {
            let out = NormSlices {
                normed: normed_out.part(from, length),
                statistics: statistics_out.part(2 * first, 2 * count),
            };
            (sum_out.as_ref().map(|sum| sum.part(from, length)), out)
        };
        let summands = y.map(|y| &y[part.clone()]).zip(sum);
        forward_on::<T>(isa, affine, &x[part], summands, out);
    });
    Ok(found)
}

/// Where some rows' results go.
struct NormSlices<'a, T> {
    normed: &'a mut [T],
    statistics: &'a mut [f32],
}

vectorized! {
    /// [`some_rows`] on `isa`.
    fn forward_on[T: Number][T](
        affine: Affine<'_, T>,
        x: &[T],
        summands: Option<(&[T], &mut [T])>,
        out: NormSlices<'_, T>,
    ) = some_rows
}

/// The norm of `x`, or, with `(y, sum)`, of `x + y`, which goes to `sum`.
#[inline(always)]
fn some_rows<V: Lanes, T: Number>(
    affine: Affine<'_, T>,
    x: &[T],
    summands: Option<(&[T], &mut [T])>,
    out: NormSlices<'_, T>,
) {
    let source = match summands {
        None => x,
        Some((y, sum)) => {
            add::<V, T>(x, y, sum);
            sum
        }
    };
    let features = affine.weight.len();
    let rows = source.len() / features;
    let mut first = 0;
    while first < rows {
        let from = first * features;
        let statistics = &mut out.statistics[2 * first..];
        if first + ABREAST <= rows {
            let part = from..from + ABREAST * features;
            abreast::<V, T, ABREAST>(
                affine,
                &source[part.clone()],
                statistics,
                &mut out.normed[part],
            );
            first += ABREAST;
        } else {
            let part = from..from + features;
            abreast::<V, T, 1>(affine, &source[part.clone()], statistics, &mut out.normed[part]);
            first += 1;
        }
    }
}

/// `sum = x + y`, rounded.
#[inline(always)]
fn add<V: Lanes, T: Number>(x: &[T], y: &[T], sum: &mut [T]) {
    let whole = whole(x.len());
    for i in (0..whole).step_by(LANES) {
        V::read(&x[i..]).add(V::read(&y[i..])).write(&mut sum[i..]);
    }
    for i in whole..x.len() {
        sum[i] = T::round(x[i].widen() + y[i].widen());
    }
}

/// The norms of `R` rows.
#[inline(always)]
fn abreast<V: Lanes, T: Number, const R: usize>(
    affine: Affine<'_, T>,
    rows: &[T],
    statistics: &mut [f32],
    out: &mut [T],
) {
    let features = affine.weight.len();
    let mut means = [0.0; R];
    if affine.norm_kind == NormKind::Layer {
        means =
            totals::<V, T, R>(rows, features, |value, _| value).map(|sum| sum / features as f32);
    }
    let centers = means.map(V::splat);
    let squares = totals::<V, T, R>(rows, features, |value, row| {
        let centered = value.sub(centers[row]);
        centered.mul(centered)
    });
    let mut scales = [0.0; R];
    for row in 0..R {
        scales[row] = 1.0 / (squares[row] / features as f32 + affine.eps).sqrt();
        statistics[2 * row] = means[row];
        statistics[2 * row + 1] = scales[row];
    }
    let scales = scales.map(V::splat);
    let whole = whole(features);
    for i in (0..whole).step_by(LANES) {
        scaled::<V, T, R, false>(affine, (rows, &centers, &scales), i..i + LANES, out);
    }
    if whole < features {
        scaled::<V, T, R, true>(affine, (rows, &centers, &scales), whole..features, out);
    }
}

/// The sums of `term` of the numbers of `R` rows, given with their row.
#[inline(always)]
fn totals<V: Lanes, T: Number, const R: usize>(
    rows: &[T],
    features: usize,
    term: impl Fn(V, usize) -> V,
) -> [f32; R] {
    let mut sums = [V::splat(0.0); R];
    let whole = whole(features);
    for i in (0..whole).step_by(LANES) {
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum = sum.add(term(V::read(&rows[row * features + i..]), row));
        }
    }
    let mut totals = sums.map(V::sum);
    if whole < features {
        for (row, total) in totals.iter_mut().enumerate() {
            let rest = &rows[row * features + whole..(row + 1) * features];
            let mut terms = [0.0; LANES];
            term(read::<V, T, true>(rest), row).store(&mut terms);
            *total += terms[..rest.len()].iter().sum::<f32>();
        }
    }
    totals
}

/// Scales the columns of `R` rows.
#[inline(always)]
fn scaled<V: Lanes, T: Number, const R: usize, const TAIL: bool>(
    affine: Affine<'_, T>,
    (rows, centers, scales): (&[T], &[V; R], &[V; R]),
    columns: std::ops::Range<usize>,
    out: &mut [T],
) {
    let features = affine.weight.len();
    let weight = read::<V, T, TAIL>(&affine.weight[columns.clone()]);
    let bias = match affine.bias {
        Some(bias) => read::<V, T, TAIL>(&bias[columns.clone()]),
        None => V::splat(0.0),
    };
    for row in 0..R {
        let place = row * features + columns.start..row * features + columns.end;
        let centered = read::<V, T, TAIL>(&rows[place.clone()]).sub(centers[row]);
        let normed = centered.mul(scales[row]).mul_add(weight, bias);
        write::<V, T, TAIL>(normed, &mut out[place]);
    }
}
