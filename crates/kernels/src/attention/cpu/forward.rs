//! The forward pass: a block of queries against all keys that any of them sees.
//!
//! A block's scores are held whole, in the second-level cache, so that softmax is two plain
//! passes over each row.

#![expect(
    unsafe_code,
    reason = "parts of one result written by many, and calls by instruction set"
)]

use std::ops::Range;

use super::QUERY_ROWS;
use super::head::HeadRows;
use crate::attention::visible::{ColumnTest, Columns, RowVisibility, Segment};
use crate::attention::{Call, KEYS};
use crate::cpu::isa::Isa;
use crate::cpu::lanes::{LANES, Lanes, exp, vectorized};
use crate::cpu::number::{CacheLine, EMPTY, Number};
use crate::cpu::pack;
use crate::cpu::product::{self, COLS, Left, Panels, ProductOut, round_on};
use crate::cpu::views::SharedSlice;

/// Memory that a thread uses again for each head.
#[derive(Default)]
pub(super) struct ForwardScratch {
    rows: Vec<CacheLine>,
    keys: Vec<CacheLine>,
    values: Vec<CacheLine>,
    scores: Vec<CacheLine>,
    weights: Vec<CacheLine>,
    sums: Vec<CacheLine>,
    /// Of the keys, 32 at a time; none where all are seen.
    tests: Vec<ColumnTest>,
}

/// What is computed: `[b, t, h, d]`, and `[b, h, t]` for the backward pass.
pub(super) struct AttentionResults<'a, T> {
    pub(super) out: SharedSlice<'a, T>,
    pub(super) log_sums: SharedSlice<'a, f32>,
}

impl ForwardScratch {
    /// Packs the keys and values of a head, for the queries of all heads that share them.
    pub(super) fn pack<T: Number>(
        &mut self,
        isa: Isa,
        k: HeadRows<T>,
        v: HeadRows<T>,
        rule: RowVisibility,
    ) {
        let padded = k.count.next_multiple_of(KEYS);
        k.rows(0, padded, &mut self.rows);
        pack::by_features(isa, bytemuck::cast_slice(&self.rows), k.words(), padded, &mut self.keys);
        v.rows(0, padded, &mut self.rows);
        let rows = bytemuck::cast_slice(&self.rows);
        pack::by_tokens::<T>(isa, rows, v.features, (padded, padded), &mut self.values);
        self.tests.clear();
        if !(rule.sees_all() && padded == k.count) {
            let columns = (0..padded).step_by(COLS);
            self.tests.extend(columns.map(|first| rule.test(Columns::Keys, first)));
        }
    }

    /// The queries of head `head` in a segment, against what was packed.
    pub(super) fn run<T: Number>(
        &mut self,
        call: &Call,
        (segment, head): (&Segment, usize),
        q: HeadRows<T>,
        rule: RowVisibility,
        results: &AttentionResults<T>,
    ) {
        for first in (0..q.count).step_by(QUERY_ROWS) {
            let queries = first..q.count.min(first + QUERY_ROWS);
            let keys = rule.keys_of(queries.clone());
            q.rows(first, QUERY_ROWS, &mut self.rows);
            self.multiply_keys::<T>(call, &keys);
            let mut sums = [(0f32, 0f32); QUERY_ROWS];
            for (i, sum) in sums.iter_mut().enumerate().take(queries.len()) {
                *sum = self.softmax::<T>(call, head, rule, first + i, i, &keys);
            }
            self.multiply_values::<T>(call, &keys, rule.keys());
            let values: &[f32] = bytemuck::cast_slice(&self.sums);
            let (row, first) = (segment.row, segment.queries.start + first);
            let log_sums = (row * call.heads + head) * call.queries + first;
            for (i, (greatest, sum)) in sums.into_iter().enumerate().take(queries.len()) {
                let place = (row * call.queries + first + i) * call.heads + head;
                // SAFETY: a head's row is written by the task that has the head, once.
                let (to, log_sum) = unsafe {
                    let to = results.out.part(place * call.features, call.features);
                    (to, results.log_sums.part(log_sums + i, 1))
                };
                let values = &values[i * call.features..][..call.features];
                // A query that sees no key gets 0.
                let share = if sum == 0.0 { 0.0 } else { 1.0 / sum };
                round_on::<T>(call.isa, values, share, to);
                log_sum[0] = if sum == 0.0 { 0.0 } else { greatest + sum.ln() };
            }
        }
    }

    /// Scores of a block of queries and `keys`.
    fn multiply_keys<T: Number>(&mut self, call: &Call, keys: &Range<usize>) {
        let words = call.features / T::PER_WORD;
        pack::grow(&mut self.scores, QUERY_ROWS * keys.len());
        let a = Left { words: bytemuck::cast_slice(&self.rows), stride: words, rows: QUERY_ROWS };
        let stride = COLS * words / 16;
        let lines = &self.keys[keys.start / COLS * stride..];
        let b = Panels { lines, stride, count: keys.len() / COLS };
        let values = bytemuck::cast_slice_mut(&mut self.scores);
        product::multiply::<T>(
            call.isa,
            a,
            b,
            words,
            ProductOut { values, stride: keys.len(), add: false },
        );
    }

    /// The weights of one query, not yet divided by their sum; the greatest score and the sum.
    fn softmax<T: Number>(
        &mut self,
        call: &Call,
        head: usize,
        rule: RowVisibility,
        query: usize,
        row: usize,
        keys: &Range<usize>,
    ) -> (f32, f32) {
        pack::grow(&mut self.weights, QUERY_ROWS * keys.len() / T::PER_WORD);
        let scores: &mut [f32] = bytemuck::cast_slice_mut(&mut self.scores);
        let weights: &mut [T] = bytemuck::cast_slice_mut(&mut self.weights);
        let tests = if self.tests.is_empty() {
            &[][..]
        } else {
            &self.tests[keys.start / COLS..keys.end / COLS]
        };
        let bias =
            call.bias.as_ref().map_or(&[][..], |bias| bias.of_query(head, query, keys.start));
        softmax_on::<T>(
            call.isa,
            (tests, rule.query(query)),
            (call.scale, bias),
            &mut scores[row * keys.len()..][..keys.len()],
            &mut weights[row * keys.len()..][..keys.len()],
        )
    }

    /// `[queries, d]`: the block's weights times the values, of which there are `count`.
    fn multiply_values<T: Number>(&mut self, call: &Call, keys: &Range<usize>, count: usize) {
        let words = keys.len() / T::PER_WORD;
        pack::grow(&mut self.sums, QUERY_ROWS * call.features);
        if keys.is_empty() {
            self.sums.fill(EMPTY);
            return;
        }
        let rows = QUERY_ROWS;
        let a = Left { words: bytemuck::cast_slice(&self.weights), stride: words, rows };
        let padded = count.next_multiple_of(KEYS);
        let stride = padded / T::PER_WORD * COLS / 16;
        let lines = &self.values[keys.start / T::PER_WORD * COLS / 16..];
        let b = Panels { lines, stride, count: call.features / COLS };
        let values = bytemuck::cast_slice_mut(&mut self.sums);
        let out = ProductOut { values, stride: call.features, add: false };
        product::multiply::<T>(call.isa, a, b, words, out);
    }
}

vectorized! {
    /// [`softmax`] on `isa`.
    fn softmax_on[T: Number][T](
        seen: (&[ColumnTest], (i32, i32)),
        score: (f32, &[f32]),
        scores: &mut [f32],
        weights: &mut [T],
    ) -> (f32, f32) = softmax
}

/// Exponentials of scores less the greatest of them; that one, and the sum of all.
///
/// Scores are scaled, moved by a bias if there is one, and hidden where a test, if there are
/// any, says so.
#[inline(always)]
fn softmax<V: Lanes, T: Number>(
    (tests, query): (&[ColumnTest], (i32, i32)),
    (scale, bias): (f32, &[f32]),
    scores: &mut [f32],
    weights: &mut [T],
) -> (f32, f32) {
    let (scale, hidden) = (V::splat(scale), V::splat(f32::NEG_INFINITY));
    let mut greatest = hidden;
    for (i, scores) in scores.chunks_exact_mut(LANES).enumerate() {
        let mut score = V::load(scores).mul(scale);
        if !bias.is_empty() {
            score = score.add(partial::<V>(&bias[(i * LANES).min(bias.len())..]));
        }
        if let Some(test) = tests.get(i * LANES / COLS) {
            score = score.select(test.sees::<V>(query, i * LANES % COLS), hidden);
        }
        score.store(scores);
        greatest = score.max(greatest);
    }
    let greatest = greatest.greatest();
    // A query that sees no key: any number will do.
    let greatest = if greatest == f32::NEG_INFINITY { 0.0 } else { greatest };
    let mut sum = V::splat(0.0);
    let chunks = scores.chunks_exact(LANES).zip(weights.chunks_exact_mut(LANES));
    for (scores, weights) in chunks {
        let power = exp(V::load(scores).sub(V::splat(greatest)));
        power.write(weights);
        sum = sum.add(power);
    }
    (greatest, sum.sum())
}

/// The first numbers of `from`, zeros past its end.
#[inline(always)]
pub(super) fn partial<V: Lanes>(from: &[f32]) -> V {
    if from.len() >= LANES {
        return V::load(from);
    }
    let mut padded = [0.0; LANES];
    padded[..from.len()].copy_from_slice(from);
    V::load(&padded)
}
