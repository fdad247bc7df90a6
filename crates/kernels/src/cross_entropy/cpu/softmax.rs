//! Softmax statistics of rows of logits, and their gradients in place.

#![expect(unsafe_code, reason = "rows of one tensor written by many, and calls by instruction set")]

use crate::cpu::isa::Isa;
use crate::cpu::lanes::{LANES, Lanes, exp, tanh, vectorized};
use crate::cpu::number::Number;
use crate::cpu::views::{self, SharedSlice};
use crate::cross_entropy::CrossEntropyOptions;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Error, Result, Tensor, parallel};

/// What all rows of a call share.
#[derive(Clone, Copy)]
pub(in crate::cross_entropy) struct LossTerms {
    pub(in crate::cross_entropy) smoothing: f32,
    pub(in crate::cross_entropy) z_loss: f32,
    pub(in crate::cross_entropy) cap: Option<f32>,
    /// `1 / n` of the rows that count.
    pub(in crate::cross_entropy) share: f32,
}

impl LossTerms {
    /// Where `count` rows count.
    pub(in crate::cross_entropy) fn new(options: &CrossEntropyOptions, count: i64) -> Self {
        Self {
            smoothing: options.label_smoothing as f32,
            z_loss: options.z_loss as f32,
            cap: options.soft_cap.map(|cap| cap as f32),
            share: 1.0 / count as f32,
        }
    }

    /// The loss of a row, from its `log_sum`, its label's logit, and the mean of all.
    pub(in crate::cross_entropy) fn loss(&self, log_sum: f32, hit: f32, mean: f32) -> f32 {
        (1.0 - self.smoothing) * (log_sum - hit)
            + self.smoothing * (log_sum - mean)
            + self.z_loss * log_sum * log_sum
    }
}

/// The labels of rows, none for those that don't count.
pub(in crate::cross_entropy) fn labels_of(
    labels: &Tensor,
    classes: usize,
    options: &CrossEntropyOptions,
) -> Result<Vec<Option<usize>>> {
    let labels = labels.contiguous();
    let label_of = |&label: &i64| match usize::try_from(label) {
        _ if label == options.ignored => Ok(None),
        Ok(label) if label < classes => Ok(Some(label)),
        _ => Err(Error::Unsupported {
            what: format!("the label {label}"),
            reason: format!("classes are 0 to {}", classes - 1),
        }),
    };
    views::read(&labels, "labels")?.iter().map(label_of).collect()
}

/// See the parent module's `softmax_cross_entropy_in_place`.
pub(in crate::cross_entropy) fn in_place<T: Number>(
    logits: &mut Tensor,
    labels: &Tensor,
    count: &Tensor,
    options: &CrossEntropyOptions,
    wanted: bool,
) -> Result<Tensor> {
    let op = "cross-entropy";
    let classes = logits.size()[1] as usize;
    let labels = labels_of(labels, classes, options)?;
    let count = count.f_int64_value(&[]).during(op)?;
    let terms = LossTerms::new(options, count);
    let mut losses = vec![0f32; labels.len()];
    let isa = Isa::fastest();
    let (rows, sums) =
        (SharedSlice::new(views::write::<T>(logits, "logits")?), SharedSlice::new(&mut losses));
    parallel::for_each(labels.len(), |row| {
        // SAFETY: a row and its loss are one task's alone.
        let (logits, loss) = unsafe { (rows.part(row * classes, classes), sums.part(row, 1)) };
        loss[0] = match labels[row] {
            Some(label) => row_on::<T>(isa, logits, label, terms, wanted),
            None => {
                logits.fill(T::round(0.0));
                0.0
            }
        };
    });
    let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
    Ok(Tensor::from((sum / count as f64) as f32))
}

vectorized! {
    /// [`row`] on `isa`.
    fn row_on[T: Number][T](logits: &mut [T], label: usize, terms: LossTerms, wanted: bool) -> f32
        = row
}

/// The loss of a row; its gradient takes the place of the logits if wanted.
#[inline(always)]
fn row<V: Lanes, T: Number>(logits: &mut [T], label: usize, terms: LossTerms, wanted: bool) -> f32 {
    let hidden = f32::NEG_INFINITY;
    let mut greatest = V::splat(hidden);
    for logits in logits.chunks(LANES) {
        greatest = score::<V, T>(logits, terms.cap, hidden).max(greatest);
    }
    let greatest = greatest.greatest();
    let (mut sum, mut total) = (V::splat(0.0), V::splat(0.0));
    for logits in logits.chunks(LANES) {
        let value = score::<V, T>(logits, terms.cap, hidden);
        sum = sum.add(exp(value.sub(V::splat(greatest))));
        if terms.smoothing > 0.0 {
            total = total.add(score::<V, T>(logits, terms.cap, 0.0));
        }
    }
    let log_sum = greatest + sum.sum().ln();
    let hit = capped_one(logits[label].widen(), terms.cap);
    let loss = terms.loss(log_sum, hit, total.sum() / logits.len() as f32);
    if wanted {
        gradients::<V, T>(logits, label, log_sum, terms);
    }
    loss
}

#[inline(always)]
fn gradients<V: Lanes, T: Number>(logits: &mut [T], label: usize, log_sum: f32, terms: LossTerms) {
    let factor = V::splat(terms.share * (1.0 + 2.0 * terms.z_loss * log_sum));
    let spread = V::splat(-terms.share * terms.smoothing / logits.len() as f32);
    let target = logits[label].widen();
    for logits in logits.chunks_mut(LANES) {
        let value = score::<V, T>(logits, terms.cap, 0.0);
        let grad = exp(value.sub(V::splat(log_sum))).mul_add(factor, spread);
        write(grad.mul(slope(value, terms.cap)), logits);
    }
    // The label's own, from the logit that was there.
    let mut padded = [0.0; LANES];
    let value = capped(V::splat(target), terms.cap);
    let hit = V::splat(-terms.share * (1.0 - terms.smoothing));
    let grad = exp(value.sub(V::splat(log_sum))).mul_add(factor, spread).add(hit);
    grad.mul(slope(value, terms.cap)).store(&mut padded);
    logits[label] = T::round(padded[0]);
}

/// [`capped`], of one.
pub(in crate::cross_entropy) fn capped_one(x: f32, cap: Option<f32>) -> f32 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

/// `cap · tanh(x / cap)`
#[inline(always)]
pub(in crate::cross_entropy) fn capped<V: Lanes>(x: V, cap: Option<f32>) -> V {
    match cap {
        Some(cap) => tanh(x.mul(V::splat(1.0 / cap))).mul(V::splat(cap)),
        None => x,
    }
}

/// The slope of [`capped`] where it is `y`.
#[inline(always)]
pub(in crate::cross_entropy) fn slope<V: Lanes>(y: V, cap: Option<f32>) -> V {
    match cap {
        Some(cap) => {
            let tanh = y.mul(V::splat(1.0 / cap));
            V::splat(1.0).sub(tanh.mul(tanh))
        }
        None => V::splat(1.0),
    }
}

/// Up to 16 logits, capped; `rest` past the last.
#[inline(always)]
fn score<V: Lanes, T: Number>(from: &[T], cap: Option<f32>, rest: f32) -> V {
    if from.len() >= LANES {
        return capped(V::read(from), cap);
    }
    let mut padded = [0.0; LANES];
    for (to, from) in padded.iter_mut().zip(from) {
        *to = from.widen();
    }
    capped(V::load(&padded), cap).store(&mut padded);
    padded[from.len()..].fill(rest);
    V::load(&padded)
}

/// Up to 16 numbers.
#[inline(always)]
fn write<V: Lanes, T: Number>(value: V, to: &mut [T]) {
    if to.len() >= LANES {
        return value.write(to);
    }
    let mut padded = [0.0; LANES];
    value.store(&mut padded);
    for (to, value) in to.iter_mut().zip(padded) {
        *to = T::round(value);
    }
}
