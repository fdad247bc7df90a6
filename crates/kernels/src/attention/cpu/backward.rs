//! The backward pass: scores are computed again, block by block, and never held.
//!
//! With scores `s`, weights `p = exp(s - log_sum)` and the gradient `do` of the result `o`
//! (arXiv 2205.14135, appendix B):
//!
//! ```text
//! dv = pᵀ do      dp = do vᵀ      ds = p (dp - Σ do · o)
//! dq = ds k · scale               dk = dsᵀ q · scale
//! ```
//!
//! Blocks are held transposed, keys in rows: `pᵀ` and `dsᵀ` are then left operands as they are
//! made.

#![expect(
    unsafe_code,
    reason = "parts of one result written by many, and calls by instruction set"
)]

use std::ops::Range;

use super::QUERIES;
use super::forward::partial;
use super::head::HeadRows;
use crate::attention::visible::{ColumnTest, Columns, RowVisibility, Segment};
use crate::attention::{Call, KEYS};
use crate::cpu::lanes::{LANES, Lanes, exp, vectorized};
use crate::cpu::number::{CacheLine, EMPTY, Number};
use crate::cpu::pack;
use crate::cpu::product::{self, COLS, Left, Panels, ProductOut, round_on};
use crate::cpu::transpose::transpose;
use crate::cpu::views::SharedSlice;

/// Gradients of queries, `[b, t, h, d]`, of keys and values, `[b, s, g, d]`, and of the bias, if
/// any, in each row of the batch, `[b, h, distances]` with the greatest distance first.
pub(super) struct AttentionGrads<'a, T> {
    pub(super) q: SharedSlice<'a, T>,
    pub(super) k: SharedSlice<'a, T>,
    pub(super) v: SharedSlice<'a, T>,
    pub(super) bias: Option<SharedSlice<'a, f32>>,
}

/// What is read of one head of queries.
#[derive(Clone, Copy)]
pub(super) struct QueryHead<'a, T> {
    pub(super) q: HeadRows<'a, T>,
    pub(super) grad: HeadRows<'a, T>,
    pub(super) out: HeadRows<'a, T>,
    pub(super) log_sums: &'a [f32],
}

/// Memory that a thread uses again for each head.
#[derive(Default)]
pub(super) struct BackwardScratch {
    rows: Vec<CacheLine>,
    pairs: Vec<CacheLine>,
    keys: PackedOperand,
    queries: PackedOperand,
    values: Vec<CacheLine>,
    grads: PackedOperand,
    /// Of each query: its logarithm, and the sum of its gradient times its result.
    log_sums: Vec<f32>,
    dots: Vec<f32>,
    block: ScoreBlock,
    dq: Vec<CacheLine>,
    dq_transposed: Vec<CacheLine>,
    dk: Vec<CacheLine>,
    dv: Vec<CacheLine>,
}

/// The orders of one operand that are read.
#[derive(Default)]
struct PackedOperand {
    rows: Vec<CacheLine>,
    transposed: Vec<CacheLine>,
    by_features: Vec<CacheLine>,
    by_tokens: Vec<CacheLine>,
}

/// One block of keys by queries.
#[derive(Default)]
struct ScoreBlock {
    scores: Vec<CacheLine>,
    grads: Vec<CacheLine>,
    weights: Vec<CacheLine>,
    score_grads: Vec<CacheLine>,
    packed: Vec<CacheLine>,
}

impl BackwardScratch {
    /// Packs the keys and values of a head, for the queries of all heads that share them.
    pub(super) fn pack<T: Number>(&mut self, call: &Call, k: HeadRows<T>, v: HeadRows<T>) {
        let padded = k.count.next_multiple_of(KEYS);
        k.rows(0, padded, &mut self.keys.rows);
        v.rows(0, padded, &mut self.values);
        let rows = bytemuck::cast_slice(&self.keys.rows);
        let transposed = (&mut self.pairs, &mut self.keys.transposed);
        pack::transposed::<T>(call.isa, rows, k.features, padded, transposed);
        for sums in [&mut self.dk, &mut self.dv] {
            pack::grow(sums, padded * k.features);
            sums.fill(EMPTY);
        }
    }

    /// The part of head `head` in a segment.
    pub(super) fn run<T: Number>(
        &mut self,
        call: &Call,
        (segment, head): (&Segment, usize),
        query: QueryHead<T>,
        rule: RowVisibility,
        gradients: &AttentionGrads<T>,
    ) {
        self.pack_queries(call, &query);
        let mut bias_grad = gradients.bias.as_ref().map(|bias| {
            let count = call.distances();
            // SAFETY: the distances of a head in a row are written by the task that has it: with a
            // bias, rows are whole.
            unsafe { bias.part((segment.row * call.heads + head) * count, count) }
        });
        for first in (0..query.q.count).step_by(QUERIES) {
            let queries = first..query.q.count.min(first + QUERIES);
            let keys = rule.keys_of(queries.clone());
            let tests = [0, COLS].map(|half| rule.test(Columns::Queries, first + half));
            let tests = if rule.sees_all() { &[][..] } else { &tests[..] };
            pack::grow(&mut self.dq_transposed, call.features * QUERIES);
            if keys.is_empty() {
                self.dq_transposed.fill(EMPTY);
            }
            for key in keys.clone().step_by(KEYS) {
                self.multiply_block::<T>(call, first, key);
                let rows = BlockRows { call, rule, tests, head, first, key };
                self.block_gradients::<T>(rows, bias_grad.as_deref_mut());
                self.add_block::<T>((call, rule), first, key, key > keys.start);
            }
            self.store_queries(call, (segment, head), queries, &gradients.q);
        }
    }

    fn pack_queries<T: Number>(&mut self, call: &Call, query: &QueryHead<T>) {
        let (features, words) = (call.features, call.features / T::PER_WORD);
        let padded = query.q.count.next_multiple_of(QUERIES);
        for (head, side) in [(query.q, &mut self.queries), (query.grad, &mut self.grads)] {
            head.rows(0, padded, &mut side.rows);
            let rows = bytemuck::cast_slice(&side.rows);
            pack::by_features(call.isa, rows, words, padded, &mut side.by_features);
            let size = (padded, QUERIES);
            pack::by_tokens::<T>(call.isa, rows, features, size, &mut side.by_tokens);
        }
        query.out.rows(0, padded, &mut self.rows);
        self.dots.resize(padded, 0.0);
        let (out, grads) =
            (bytemuck::cast_slice(&self.rows), bytemuck::cast_slice(&self.grads.rows));
        dots_on::<T>(call.isa, out, grads, features, &mut self.dots);
        self.log_sums.clear();
        self.log_sums.extend_from_slice(query.log_sums);
        self.log_sums.resize(padded, 0.0);
    }

    /// Scores and the weights' gradients of a block, `[keys, queries]`.
    fn multiply_block<T: Number>(&mut self, call: &Call, first: usize, key: usize) {
        let words = call.features / T::PER_WORD;
        let stride = COLS * words / 16;
        let sides = [
            (&self.keys.rows, &self.queries.by_features, &mut self.block.scores),
            (&self.values, &self.grads.by_features, &mut self.block.grads),
        ];
        for (rows, panels, out) in sides {
            pack::grow(out, KEYS * QUERIES);
            let rows: &[u32] = bytemuck::cast_slice(rows);
            let a = Left { words: &rows[key * words..], stride: words, rows: KEYS };
            let lines = &panels[first / COLS * stride..];
            let b = Panels { lines, stride, count: QUERIES / COLS };
            let values = bytemuck::cast_slice_mut(out);
            let out = ProductOut { values, stride: QUERIES, add: false };
            product::multiply::<T>(call.isa, a, b, words, out);
        }
    }

    /// Weights and the scores' gradients of a block.
    fn block_gradients<T: Number>(&mut self, rows: BlockRows, mut bias_grad: Option<&mut [f32]>) {
        let (call, block) = (rows.call, &mut self.block);
        for out in [&mut block.weights, &mut block.score_grads, &mut block.packed] {
            pack::grow(out, KEYS * QUERIES / T::PER_WORD);
        }
        let scores: &[f32] = bytemuck::cast_slice(&block.scores);
        let grads: &mut [f32] = bytemuck::cast_slice_mut(&mut block.grads);
        let weights: &mut [T] = bytemuck::cast_slice_mut(&mut block.weights);
        let score_grads: &mut [T] = bytemuck::cast_slice_mut(&mut block.score_grads);
        let statistics =
            (&self.log_sums[rows.first..][..QUERIES], &self.dots[rows.first..][..QUERIES]);
        let existing = KEYS.min(rows.rule.keys() - rows.key);
        for i in 0..existing {
            let (place, key) = (i * QUERIES..(i + 1) * QUERIES, rows.key + i);
            let bias = call.bias.as_ref();
            let bias = bias.map_or(&[][..], |bias| bias.of_key(rows.head, key, rows.first));
            row_gradients_on::<T>(
                call.isa,
                (rows.tests, rows.rule.key(key)),
                (call.scale, bias),
                (&scores[place.clone()], &mut grads[place.clone()]),
                statistics,
                (&mut weights[place.clone()], &mut score_grads[place.clone()]),
            );
            if let Some(sums) = bias_grad.as_deref_mut() {
                let sums = &mut sums[call.distance_of(key, rows.first)..];
                sums.iter_mut().zip(&grads[place]).for_each(|(sum, grad)| *sum += grad);
            }
        }
        weights[existing * QUERIES..KEYS * QUERIES].fill(T::round(0.0));
        score_grads[existing * QUERIES..KEYS * QUERIES].fill(T::round(0.0));
        let rows = bytemuck::cast_slice(&block.score_grads);
        pack::by_tokens::<T>(call.isa, rows, QUERIES, (KEYS, KEYS), &mut block.packed);
    }

    /// Adds the block's part to the gradients of queries, keys and values.
    fn add_block<T: Number>(
        &mut self,
        (call, rule): (&Call, RowVisibility),
        first: usize,
        key: usize,
        add_queries: bool,
    ) {
        let (d, queries, keys) = (call.features, QUERIES / T::PER_WORD, KEYS / T::PER_WORD);
        let sums = [
            (&self.block.weights, &self.grads.by_tokens, &mut self.dv),
            (&self.block.score_grads, &self.queries.by_tokens, &mut self.dk),
        ];
        for (rows, panels, out) in sums {
            let a = Left { words: bytemuck::cast_slice(rows), stride: queries, rows: KEYS };
            let lines = &panels[first / T::PER_WORD * d / 16..];
            let b = Panels { lines, stride: queries * COLS / 16, count: d / COLS };
            let values: &mut [f32] = bytemuck::cast_slice_mut(out);
            let out = ProductOut { values: &mut values[key * d..], stride: d, add: true };
            product::multiply::<T>(call.isa, a, b, queries, out);
        }
        let transposed: &[u32] = bytemuck::cast_slice(&self.keys.transposed);
        let stride = rule.keys().next_multiple_of(KEYS) / T::PER_WORD;
        let a = Left { words: &transposed[key / T::PER_WORD..], stride, rows: d };
        let lines = &self.block.packed[..];
        let b = Panels { lines, stride: keys * COLS / 16, count: QUERIES / COLS };
        let values = bytemuck::cast_slice_mut(&mut self.dq_transposed);
        let out = ProductOut { values, stride: QUERIES, add: add_queries };
        product::multiply::<T>(call.isa, a, b, keys, out);
    }

    fn store_queries<T: Number>(
        &mut self,
        call: &Call,
        (segment, head): (&Segment, usize),
        queries: Range<usize>,
        out: &SharedSlice<T>,
    ) {
        let d = call.features;
        pack::grow(&mut self.dq, QUERIES * d);
        let transposed: &[u32] = bytemuck::cast_slice(&self.dq_transposed);
        let straight: &mut [u32] = bytemuck::cast_slice_mut(&mut self.dq);
        transpose(call.isa, (transposed, QUERIES), (straight, d), d, QUERIES);
        let sums: &[f32] = bytemuck::cast_slice(&self.dq);
        for (query, sums) in queries.zip(sums.chunks_exact(d)) {
            let query = segment.queries.start + query;
            let place = (segment.row * call.queries + query) * call.heads + head;
            // SAFETY: a head's row is written by the task that has the head, once.
            let to = unsafe { out.part(place * d, d) };
            round_on::<T>(call.isa, sums, call.scale, to);
        }
    }

    /// Writes the gradients of keys and values, to which all heads of queries have added.
    pub(super) fn store_keys<T: Number>(
        &mut self,
        call: &Call,
        (segment, group): (&Segment, usize),
        gradients: &AttentionGrads<T>,
    ) {
        let d = call.features;
        let sides = [(&self.dk, call.scale, &gradients.k), (&self.dv, 1.0, &gradients.v)];
        for (sums, scale, out) in sides {
            let sums: &[f32] = bytemuck::cast_slice(sums);
            for (key, sums) in segment.keys.clone().zip(sums.chunks_exact(d)) {
                let place = (segment.row * call.keys + key) * call.groups + group;
                // SAFETY: a head's row is written by the task that has the head, once.
                let to = unsafe { out.part(place * d, d) };
                round_on::<T>(call.isa, sums, scale, to);
            }
        }
    }
}

/// Where a block lies.
#[derive(Clone, Copy)]
struct BlockRows<'a> {
    call: &'a Call,
    rule: RowVisibility<'a>,
    /// Of the queries, 32 at a time; none where all are seen.
    tests: &'a [ColumnTest],
    head: usize,
    first: usize,
    key: usize,
}

vectorized! {
    /// [`row_gradients`] on `isa`.
    fn row_gradients_on[T: Number][T](
        seen: (&[ColumnTest], (i32, i32)),
        score: (f32, &[f32]),
        products: (&[f32], &mut [f32]),
        statistics: (&[f32], &[f32]),
        results: (&mut [T], &mut [T]),
    ) = row_gradients
}

/// Of one key and a block of queries: weights, and the scores' gradients, which in FP32 take the
/// place of the weights' gradients.
#[inline(always)]
fn row_gradients<V: Lanes, T: Number>(
    (tests, key): (&[ColumnTest], (i32, i32)),
    (scale, bias): (f32, &[f32]),
    (scores, grads): (&[f32], &mut [f32]),
    (log_sums, dots): (&[f32], &[f32]),
    (weights, score_grads): (&mut [T], &mut [T]),
) {
    for column in (0..QUERIES).step_by(LANES) {
        let mut score = V::load(&scores[column..]).mul(V::splat(scale));
        if !bias.is_empty() {
            score = score.add(partial::<V>(&bias[column.min(bias.len())..]));
        }
        let mut weight = exp(score.sub(V::load(&log_sums[column..])));
        if let Some(test) = tests.get(column / COLS) {
            weight = weight.select(test.sees::<V>(key, column % COLS), V::splat(0.0));
        }
        weight.write(&mut weights[column..]);
        let moved = V::load(&grads[column..]).sub(V::load(&dots[column..]));
        let grad = weight.mul(moved);
        grad.write(&mut score_grads[column..]);
        grad.store(&mut grads[column..]);
    }
}

vectorized! {
    /// [`dots`] on `isa`.
    fn dots_on[T: Number][T](left: &[T], right: &[T], features: usize, out: &mut [f32]) = dots
}

/// The dot product of each row of both sides.
#[inline(always)]
fn dots<V: Lanes, T: Number>(left: &[T], right: &[T], features: usize, out: &mut [f32]) {
    let rows = left.chunks_exact(features).zip(right.chunks_exact(features));
    for ((left, right), out) in rows.zip(out) {
        let mut sum = V::splat(0.0);
        for (left, right) in left.chunks_exact(LANES).zip(right.chunks_exact(LANES)) {
            sum = V::read(left).mul_add(V::read(right), sum);
        }
        *out = sum.sum();
    }
}
