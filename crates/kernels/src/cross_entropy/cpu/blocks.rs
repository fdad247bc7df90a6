//! The output layer's products and its loss together, a block of classes at a time.
//!
//! Of a block, logits are held transposed, classes in rows: weights are then left operands as they
//! lie, and so is the gradient in the product that gives the weights' own. Each thread has a run
//! of blocks, always the same for one number of threads, and sums of its own.
//!
//! Products, with the gradient `g` of the transposed logits `x`:
//!
//! ```text
//! x = W Hᵀ        dW = g H        dHᵀ = Wᵀ g
//! ```
//!
//! Axes: `n` rows of hidden states, up to a multiple of 32, `d` features, `v` classes.

#![expect(unsafe_code, reason = "parts of one result written by many")]

use std::ops::Range;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor, get_num_threads, parallel};

use super::columns::{
    Slopes, Statistics, differentiate_label_on, differentiate_on, sum_rows_on, take_in_on,
};
use super::softmax::{LossTerms, labels_of};
use crate::cpu::isa::Isa;
use crate::cpu::number::{CacheLine, EMPTY, Number};
use crate::cpu::pack;
use crate::cpu::product::{self, COLS, Left, Panels, ProductOut, round_on};
use crate::cpu::transpose::transpose;
use crate::cpu::views::{self, SharedSlice};
use crate::cross_entropy::{ChunkGrads, CrossEntropyOptions, OutputWeights};

/// Classes of a block.
const CLASSES: usize = 128;

/// Whether [`run`] takes such hidden states.
pub(in crate::cross_entropy) fn supports(hidden_nd: &Tensor) -> bool {
    hidden_nd.device() == Device::Cpu
        && hidden_nd.size()[1] % COLS as i64 == 0
        && matches!(hidden_nd.kind(), Kind::BFloat16 | Kind::Float)
}

/// The part of the loss of `hidden_nd`, a scalar, divided by `count`. With it, if wanted,
/// the gradients.
pub(in crate::cross_entropy) fn run<T: Number>(
    hidden_nd: &Tensor,
    output: OutputWeights,
    labels_n: &Tensor,
    (count, options): (&Tensor, &CrossEntropyOptions),
    wanted: bool,
) -> Result<(Tensor, Option<ChunkGrads>)> {
    let op = "cross-entropy of an output layer";
    let (hidden, weight) = (hidden_nd.contiguous(), output.weight.contiguous());
    let bias = output.bias.map(|bias| bias.to_kind(Kind::Float).contiguous());
    let (rows, features) = hidden.size2().during(op)?;
    let classes = weight.size()[0] as usize;
    let labels = labels_of(labels_n, classes, options)?;
    let count = count.f_int64_value(&[]).during(op)?;
    let layer = BlockedLayer::<T> {
        isa: Isa::fastest(),
        weight: views::read(&weight, "weight")?,
        bias: bias.as_ref().map(|bias| views::read(bias, "bias")).transpose()?,
        labels: &labels,
        features: features as usize,
        classes,
        columns: labels.len().next_multiple_of(COLS),
        terms: LossTerms::new(options, count),
    };
    let packed = Packed::new(&layer, views::read(&hidden, "hidden")?, wanted);
    let place = (hidden.kind(), Device::Cpu);
    let logits = [if wanted { classes } else { 0 } as i64, layer.columns as i64];
    let mut logits = Tensor::f_empty(logits, place).during(op)?;
    let statistics = layer.statistics(&packed, views::write(&mut logits, "logits")?);
    let (loss, slopes) = layer.loss(&statistics);
    let loss = Tensor::from((loss / count as f64) as f32);
    if !wanted {
        return Ok((loss, None));
    }
    let logits = views::read(&logits, "logits")?;
    let parts = layer.gradients(&packed, logits, &slopes, (rows, place))?;
    Ok((loss, Some(parts)))
}

/// What all blocks of a call share.
struct BlockedLayer<'a, T> {
    isa: Isa,
    /// `[v, d]`
    weight: &'a [T],
    /// `[v]`
    bias: Option<&'a [f32]>,
    /// Of rows that count.
    labels: &'a [Option<usize>],
    features: usize,
    classes: usize,
    /// `n`, with rows of zeros up to a multiple of 32.
    columns: usize,
    terms: LossTerms,
}

/// Hidden states as the products read them.
struct Packed {
    by_features: Vec<CacheLine>,
    by_rows: Vec<CacheLine>,
}

impl Packed {
    fn new<T: Number>(layer: &BlockedLayer<T>, hidden: &[T], wanted: bool) -> Self {
        let (d, n) = (layer.features, layer.columns);
        let words = d / T::PER_WORD;
        let mut padded = Vec::new();
        pack::grow(&mut padded, n * words);
        let to: &mut [T] = bytemuck::cast_slice_mut(&mut padded);
        to[..hidden.len()].copy_from_slice(hidden);
        let rows: &[u32] = bytemuck::cast_slice(&padded);
        let (mut by_features, mut by_rows) = (Vec::new(), Vec::new());
        pack::by_features(layer.isa, rows, words, n, &mut by_features);
        if wanted {
            pack::by_tokens::<T>(layer.isa, rows, d, (n, n), &mut by_rows);
        }
        Self { by_features, by_rows }
    }
}

/// Memory that a thread uses again for each block.
#[derive(Default)]
struct BlockScratch {
    weight: Vec<CacheLine>,
    pairs: Vec<CacheLine>,
    transposed: Vec<CacheLine>,
    /// FP32 results of products.
    sums: Vec<CacheLine>,
    block: Vec<CacheLine>,
    packed: Vec<CacheLine>,
}

thread_local! {
    static SCRATCH: std::cell::RefCell<BlockScratch> = std::cell::RefCell::default();
}

impl<T: Number> BlockedLayer<'_, T> {
    /// The classes of each thread's blocks.
    fn runs(&self) -> Vec<Range<usize>> {
        let blocks = self.classes.div_ceil(CLASSES);
        let count = blocks.min(get_num_threads().max(1) as usize);
        let first = |run: usize| (run * blocks / count * CLASSES).min(self.classes);
        (0..count).map(|run| first(run)..first(run + 1)).collect()
    }

    /// Statistics of all columns; logits, transposed, go where there is room for them.
    fn statistics(&self, packed: &Packed, logits: &mut [T]) -> Statistics {
        let kept = !logits.is_empty();
        let logits = SharedSlice::new(logits);
        let found = parallel::map_of(self.runs(), |classes| {
            let mut statistics = Statistics::new(self.columns);
            SCRATCH.with_borrow_mut(|scratch| {
                for (first, count) in blocks_of(classes) {
                    let block = if kept {
                        // SAFETY: a class is in one thread's blocks alone.
                        unsafe { logits.part(first * self.columns, count * self.columns) }
                    } else {
                        pack::grow(&mut scratch.block, CLASSES * self.columns / T::PER_WORD);
                        let room: &mut [T] = bytemuck::cast_slice_mut(&mut scratch.block);
                        &mut room[..count * self.columns]
                    };
                    let bias = self.bias.map_or(&[0.0; CLASSES][..count], |b| &b[first..][..count]);
                    let tiles = count.next_multiple_of(product::ROWS);
                    let rows = weight_rows(self, (first, count), tiles, &mut scratch.weight);
                    self.multiply_hidden(rows, packed, &mut scratch.sums);
                    let scores: &[f32] = bytemuck::cast_slice(&scratch.sums);
                    let scores = &scores[..count * self.columns];
                    let LossTerms { cap, smoothing, .. } = self.terms;
                    let total = smoothing > 0.0;
                    take_in_on::<T>(self.isa, scores, bias, cap, total, &mut statistics, block);
                    for (column, class) in self.labels_in(first, count) {
                        let logit = block[class * self.columns + column].widen();
                        statistics.hit[column] = super::softmax::capped_one(logit, cap);
                    }
                }
            });
            statistics
        });
        let mut found = found.into_iter();
        let first = found.next().unwrap_or_else(|| Statistics::new(self.columns));
        found.fold(first, |mut sum, part| {
            sum.join(&part);
            sum
        })
    }

    /// Columns whose label is in a block, with its place there.
    fn labels_in(&self, first: usize, count: usize) -> impl Iterator<Item = (usize, usize)> {
        self.labels.iter().enumerate().filter_map(move |(column, label)| {
            label
                .and_then(|label| label.checked_sub(first))
                .and_then(|class| (class < count).then_some((column, class)))
        })
    }

    /// `[classes, n]`: the transposed logits of a block, without bias.
    fn multiply_hidden(&self, rows: &[u32], packed: &Packed, out: &mut Vec<CacheLine>) {
        let words = self.features / T::PER_WORD;
        pack::grow(out, CLASSES * self.columns);
        let a = Left { words: rows, stride: words, rows: rows.len() / words };
        let lines = &packed.by_features[..];
        let b = Panels { lines, stride: words * COLS / 16, count: self.columns / COLS };
        let values = bytemuck::cast_slice_mut(out);
        let out = ProductOut { values, stride: self.columns, add: false };
        product::multiply::<T>(self.isa, a, b, words, out);
    }

    /// The sum of the losses of all rows that count, and what gradients are made with.
    fn loss(&self, statistics: &Statistics) -> (f64, Slopes) {
        let LossTerms { smoothing, z_loss, share, cap, .. } = self.terms;
        let zeros = vec![0.0; self.columns];
        let mut slopes = Slopes {
            log_sum: zeros.clone(),
            factor: zeros.clone(),
            spread: zeros.clone(),
            hit: -share * (1.0 - smoothing),
            counted: zeros,
            cap,
        };
        let mut sum = 0.0;
        for (column, _) in self.labels.iter().enumerate().filter(|(_, label)| label.is_some()) {
            let log_sum = statistics.greatest[column] + statistics.powers[column].ln();
            let mean = statistics.total[column] / self.classes as f32;
            sum += f64::from(self.terms.loss(log_sum, statistics.hit[column], mean));
            slopes.log_sum[column] = log_sum;
            slopes.factor[column] = share * (1.0 + 2.0 * z_loss * log_sum);
            slopes.spread[column] = -share * smoothing / self.classes as f32;
            slopes.counted[column] = 1.0;
        }
        (sum, slopes)
    }

    /// Gradients of hidden states, `[rows, d]`, of weight and of bias, if there is one.
    fn gradients(
        &self,
        packed: &Packed,
        logits: &[T],
        slopes: &Slopes,
        (rows, place): (i64, (Kind, Device)),
    ) -> Result<ChunkGrads> {
        let op = "gradients of an output layer";
        let (d, n, v) = (self.features as i64, self.columns as i64, self.classes as i64);
        let exact = (Kind::Float, Device::Cpu);
        let runs = self.runs();
        let mut weight = Tensor::f_empty([v, d], place).during(op)?;
        let mut bias = Tensor::f_empty([v], exact).during(op)?;
        let mut transposed = Tensor::f_empty([runs.len() as i64, d, n], exact).during(op)?;
        {
            let grads = SharedGrads {
                weight: SharedSlice::new(views::write(&mut weight, "a gradient")?),
                bias: SharedSlice::new(views::write(&mut bias, "a gradient")?),
            };
            let size = self.features * self.columns;
            let transposed =
                views::write::<f32>(&mut transposed, "a gradient")?.chunks_exact_mut(size);
            parallel::for_each_of(
                runs.into_iter().zip(transposed).collect(),
                |(classes, transposed)| {
                    SCRATCH.with_borrow_mut(|scratch| {
                        let begin = classes.start;
                        for (first, count) in blocks_of(classes) {
                            let out = (&grads, &mut *transposed, first > begin);
                            self.add_block(scratch, (first, count), packed, (logits, slopes), out);
                        }
                    });
                },
            );
        }
        let hidden = self.straight(&transposed, rows, place)?;
        Ok(ChunkGrads { hidden, weight, bias: self.bias.map(|_| bias) })
    }

    /// The gradients of a block of classes; those of hidden states are added up, transposed.
    fn add_block(
        &self,
        scratch: &mut BlockScratch,
        (first, count): (usize, usize),
        packed: &Packed,
        (logits, slopes): (&[T], &Slopes),
        (grads, transposed, add): (&SharedGrads<T>, &mut [f32], bool),
    ) {
        let (d, n) = (self.features, self.columns);
        let BlockScratch {
            weight,
            pairs,
            transposed: weight_transposed,
            sums,
            block,
            packed: by_classes,
        } = scratch;
        pack::grow(block, CLASSES * n / T::PER_WORD);
        let rows: &mut [T] = bytemuck::cast_slice_mut(block);
        let logits = &logits[first * n..][..count * n];
        differentiate_on::<T>(self.isa, logits, slopes, &mut rows[..count * n]);
        rows[count * n..CLASSES * n].fill(T::round(0.0));
        for (column, class) in self.labels_in(first, count) {
            let place = class * n + column;
            differentiate_label_on::<T>(self.isa, logits[place], slopes, column, &mut rows[place]);
        }
        // SAFETY: a class is in one thread's blocks alone.
        let (weight_grads, bias_grads) =
            unsafe { (grads.weight.part(first * d, count * d), grads.bias.part(first, count)) };
        if self.bias.is_some() {
            sum_rows_on::<T>(self.isa, rows, n, bias_grads);
        }
        let block: &[u32] = bytemuck::cast_slice(block);

        let words = n / T::PER_WORD;
        pack::grow(sums, CLASSES * d);
        let a = Left { words: block, stride: words, rows: count.next_multiple_of(product::ROWS) };
        let b = Panels { lines: &packed.by_rows, stride: words * COLS / 16, count: d / COLS };
        let values: &mut [f32] = bytemuck::cast_slice_mut(sums);
        product::multiply::<T>(self.isa, a, b, words, ProductOut { values, stride: d, add: false });
        round_on::<T>(self.isa, &values[..count * d], 1.0, weight_grads);

        let words = CLASSES / T::PER_WORD;
        let padded = weight_rows(self, (first, count), CLASSES, weight);
        pack::transposed::<T>(self.isa, padded, d, CLASSES, (pairs, weight_transposed));
        pack::by_tokens::<T>(self.isa, block, n, (CLASSES, CLASSES), by_classes);
        let a = Left { words: bytemuck::cast_slice(weight_transposed), stride: words, rows: d };
        let b = Panels { lines: by_classes, stride: words * COLS / 16, count: n / COLS };
        product::multiply::<T>(
            self.isa,
            a,
            b,
            words,
            ProductOut { values: transposed, stride: n, add },
        );
    }

    /// The sum of all threads' gradients of hidden states, `[rows, d]`.
    fn straight(&self, transposed: &Tensor, rows: i64, place: (Kind, Device)) -> Result<Tensor> {
        let op = "gradients of hidden states";
        let (d, n) = (self.features, self.columns);
        let sum = transposed.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Float).during(op)?;
        let transposed: &[u32] = bytemuck::cast_slice(views::read::<f32>(&sum, "sums")?);
        let mut straight = vec![EMPTY; n * d / 16];
        let words: &mut [u32] = bytemuck::cast_slice_mut(&mut straight);
        transpose(self.isa, (transposed, n), (words, d), d, n);
        let mut hidden = Tensor::f_empty([rows, d as i64], place).during(op)?;
        let to = views::write(&mut hidden, "a gradient")?;
        let sums: &[f32] = bytemuck::cast_slice(&straight);
        round_on::<T>(self.isa, &sums[..to.len()], 1.0, to);
        Ok(hidden)
    }
}

/// Results that threads write, each its classes.
struct SharedGrads<'a, T> {
    weight: SharedSlice<'a, T>,
    bias: SharedSlice<'a, f32>,
}

/// First class and number of classes of each block.
fn blocks_of(classes: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    let end = classes.end;
    classes.step_by(CLASSES).map(move |first| (first, CLASSES.min(end - first)))
}

/// The weights of `count` classes from `first` on; where they are fewer than `padded`, a copy with
/// zeros up to that.
fn weight_rows<'a, T: Number>(
    layer: &BlockedLayer<'a, T>,
    (first, count): (usize, usize),
    padded: usize,
    room: &'a mut Vec<CacheLine>,
) -> &'a [u32] {
    let d = layer.features;
    let rows = &layer.weight[first * d..][..count * d];
    if count == padded {
        return bytemuck::cast_slice(rows);
    }
    pack::grow(room, padded * d / T::PER_WORD);
    let copy: &mut [T] = bytemuck::cast_slice_mut(room);
    copy[..count * d].copy_from_slice(rows);
    copy[count * d..].fill(T::round(0.0));
    &bytemuck::cast_slice(room)[..padded * d / T::PER_WORD]
}
