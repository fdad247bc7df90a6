//! Matrices copied into the orders in which tiles read them.
//!
//! Axes: `n` tokens, `d` features.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use crate::cpu::isa::{Isa, multiversioned};
use crate::cpu::number::{CacheLine, EMPTY, Number};
use crate::cpu::product::COLS;
use crate::cpu::transpose::transpose;

/// Makes room for so many words, with no promise of what they hold.
pub(crate) fn grow(lines: &mut Vec<CacheLine>, words: usize) {
    lines.resize(words.div_ceil(16), EMPTY);
}

/// Packs rows `[n, d]` for products over features: panels of 32 tokens, `[n/32][d words][32]`.
pub(crate) fn by_features(
    isa: Isa,
    rows: &[u32],
    words: usize,
    n: usize,
    out: &mut Vec<CacheLine>,
) {
    grow(out, n * words);
    let out: &mut [u32] = bytemuck::cast_slice_mut(out);
    for (panel, to) in out.chunks_exact_mut(COLS * words).take(n / COLS).enumerate() {
        transpose(isa, (&rows[panel * COLS * words..], words), (to, COLS), COLS, words);
    }
}

/// Packs rows `[n, d]` for products over tokens, in blocks of `block` tokens:
/// `[n/block][d/32][block words][32]`.
pub(crate) fn by_tokens<T: Number>(
    isa: Isa,
    rows: &[u32],
    features: usize,
    (n, block): (usize, usize),
    out: &mut Vec<CacheLine>,
) {
    grow(out, n * features / T::PER_WORD);
    let rows: &[T] = bytemuck::cast_slice(rows);
    let out: &mut [u32] = bytemuck::cast_slice_mut(out);
    let size = block * features / T::PER_WORD;
    for (rows, out) in
        rows.chunks_exact(block * features).zip(out.chunks_exact_mut(size)).take(n / block)
    {
        interleave_on::<T>(isa, rows, features, COLS, out);
    }
}

/// Packs rows `[n, d]` transposed, `[d][n words]`.
pub(crate) fn transposed<T: Number>(
    isa: Isa,
    rows: &[u32],
    features: usize,
    n: usize,
    (pairs, out): (&mut Vec<CacheLine>, &mut Vec<CacheLine>),
) {
    let words = n / T::PER_WORD;
    grow(pairs, words * features);
    grow(out, words * features);
    let pairs: &mut [u32] = bytemuck::cast_slice_mut(pairs);
    let rows: &[T] = &bytemuck::cast_slice(rows)[..n * features];
    interleave_on::<T>(isa, rows, features, features, &mut pairs[..words * features]);
    let out: &mut [u32] = bytemuck::cast_slice_mut(out);
    transpose(isa, (pairs, features), (out, words), words, features);
}

multiversioned! {
    /// [`interleave`] on `isa`.
    fn interleave_on[T: Number][T](rows: &[T], features: usize, width: usize, out: &mut [u32])
        = interleave
}

/// Rows that share words are joined, in columns of `width` features:
/// `out[f / width][word][f % width]`.
#[inline(always)]
fn interleave<T: Number>(rows: &[T], features: usize, width: usize, out: &mut [u32]) {
    let words = rows.len() / features / T::PER_WORD;
    for (word, group) in rows.chunks_exact(features * T::PER_WORD).enumerate() {
        let (first, last) = (&group[..features], &group[group.len() - features..]);
        let columns = first.chunks_exact(width).zip(last.chunks_exact(width));
        for (column, (first, last)) in columns.enumerate() {
            let to = &mut out[(column * words + word) * width..][..width];
            for ((to, &first), &last) in to.iter_mut().zip(first).zip(last) {
                *to = T::word(first, last);
            }
        }
    }
}
