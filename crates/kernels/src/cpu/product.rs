//! Small matrix products over packed operands: what attention and the output layer are made of.
//!
//! A product is `out = A B`, or `out += A B`. `A` lies row by row, in words along the inner
//! dimension. `B` is packed in panels of 32 columns: word `w` of column `c` of a panel is word
//! `32 w + c` of it. Tiles of 8 rows by 32 columns stay in registers over the inner dimension.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::cpu::CpuFeatures;

use crate::cpu::isa::{Isa, multiversioned};
use crate::cpu::lanes::{LANES, Lanes, vectorized};
use crate::cpu::number::{CacheLine, Number};

/// Rows of a tile.
pub(crate) const ROWS: usize = 8;

/// Columns of a tile, and of a panel.
pub(crate) const COLS: usize = 32;

/// Lines of a panel for a word.
const LINES: usize = COLS / 16;

/// The left operand: `rows` rows, each `stride` words after the one before.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) words: &'a [u32],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
}

/// The right operand: panels of 32 columns, each `stride` lines after the one before.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub(crate) lines: &'a [CacheLine],
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

/// The result, its rows `stride` numbers apart.
pub(crate) struct ProductOut<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
    /// Whether the product is added to what is there.
    pub(crate) add: bool,
}

/// The product over `words` words of the inner dimension. Rows are a multiple of [`ROWS`].
pub(crate) fn multiply<T: Number>(isa: Isa, a: Left, b: Panels, words: usize, out: ProductOut) {
    if a.rows == 0 || b.count == 0 {
        return;
    }
    // What the tiles below rely on.
    assert_eq!(a.rows % ROWS, 0);
    assert!((a.rows - 1) * a.stride + words <= a.words.len());
    assert!((b.count - 1) * b.stride + words * LINES <= b.lines.len());
    assert!((a.rows - 1) * out.stride + b.count * COLS <= out.values.len());
    let whole = isa == Isa::Avx512 && (T::PER_WORD == 1 || CpuFeatures::detect().avx512_bf16);
    #[cfg(target_arch = "x86_64")]
    if whole {
        // SAFETY: the CPU has the features, as was just asked, and the sizes fit.
        unsafe { avx512::multiply::<T>(a, b, words, out) };
        return;
    }
    let _ = whole;
    multiply_on::<T>(isa, a, b, words, out);
}

multiversioned! {
    /// [`multiply_body`] on `isa`.
    fn multiply_on[T: Number][T](a: Left<'_>, b: Panels<'_>, words: usize, out: ProductOut<'_>)
        = multiply_body
}

#[inline(always)]
fn multiply_body<T: Number>(a: Left<'_>, b: Panels<'_>, words: usize, out: ProductOut<'_>) {
    for panel in 0..b.count {
        let lines = &b.lines[panel * b.stride..][..words * LINES];
        for row in 0..a.rows {
            let left = &a.words[row * a.stride..][..words];
            let to = &mut out.values[row * out.stride + panel * COLS..][..COLS];
            let mut sums = [0f32; COLS];
            if out.add {
                sums.copy_from_slice(to);
            }
            for (&left, right) in left.iter().zip(lines.as_chunks::<LINES>().0) {
                let left = T::values(left);
                for (half, line) in right.iter().enumerate() {
                    for (lane, &right) in line.0.iter().enumerate() {
                        let right = T::values(right);
                        sums[16 * half + lane] += left[0] * right[0];
                        if T::PER_WORD == 2 {
                            sums[16 * half + lane] += left[1] * right[1];
                        }
                    }
                }
            }
            to.copy_from_slice(&sums);
        }
    }
}

vectorized! {
    /// [`round`] on `isa`.
    pub(crate) fn round_on[T: Number][T](sums: &[f32], scale: f32, out: &mut [T]) = round
}

/// Sums, scaled.
#[inline(always)]
fn round<V: Lanes, T: Number>(sums: &[f32], scale: f32, out: &mut [T]) {
    for (sums, out) in sums.chunks_exact(LANES).zip(out.chunks_exact_mut(LANES)) {
        V::load(sums).mul(V::splat(scale)).write(out);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{COLS, Left, Panels, ProductOut, ROWS};
    use crate::cpu::micro_kernel::{self, Tile};
    use crate::cpu::number::Number;

    const _: () = assert!(COLS == micro_kernel::COLS);

    /// # Safety
    /// The CPU has AVX-512 F, and BF16 where `T` is that; the sizes fit as `multiply` checks.
    pub(super) unsafe fn multiply<T: Number>(a: Left, b: Panels, words: usize, out: ProductOut) {
        // SAFETY: the caller's promises.
        unsafe {
            if T::PER_WORD == 1 {
                multiply_f32::<T>(a, b, words, out);
            } else {
                multiply_bf16::<T>(a, b, words, out);
            }
        }
    }

    /// # Safety
    /// As of [`multiply`].
    #[target_feature(enable = "avx512f")]
    unsafe fn multiply_f32<T: Number>(a: Left, b: Panels, words: usize, out: ProductOut) {
        // SAFETY: the caller's promises.
        unsafe { multiply_body::<T>(a, b, words, out) };
    }

    /// # Safety
    /// As of [`multiply`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn multiply_bf16<T: Number>(a: Left, b: Panels, words: usize, out: ProductOut) {
        // SAFETY: the caller's promises.
        unsafe { multiply_body::<T>(a, b, words, out) };
    }

    /// # Safety
    /// As of [`multiply`].
    #[inline(always)]
    unsafe fn multiply_body<T: Number>(a: Left, b: Panels, words: usize, out: ProductOut) {
        let ProductOut { values, stride, add } = out;
        for panel in 0..b.count {
            for row in (0..a.rows).step_by(ROWS) {
                // SAFETY: the caller's promises: all of the tile lies within the slices, and lines
                // are aligned to their 64 bytes.
                unsafe {
                    let left = a.words.as_ptr().add(row * a.stride);
                    let tile = Tile {
                        rows: std::array::from_fn::<_, ROWS, _>(|i| left.add(i * a.stride)),
                        panel: b.lines.as_ptr().add(panel * b.stride).cast(),
                        words,
                        out: values.as_mut_ptr().add(row * stride + panel * COLS),
                        stride,
                        add,
                    };
                    tile.compute::<T>();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::cpu::number::EMPTY;

    fn check<T: Number>() {
        let (rows, cols, words) = (16, 64, 5);
        let inner = words * T::PER_WORD;
        let value = |i: usize| T::round(((i * 37 % 101) as f32 - 50.0) / 64.0);
        let a: Vec<T> = (0..rows * inner).map(value).collect();
        let b: Vec<T> = (0..cols * inner).map(|i| value(i + 7)).collect();
        let mut lines = vec![EMPTY; cols / COLS * words * LINES];
        for col in 0..cols {
            for word in 0..words {
                let at = |i: usize| b[(word * T::PER_WORD + i) * cols + col];
                let packed = T::word(at(0), at(T::PER_WORD - 1));
                let line = (col / COLS * words + word) * LINES + col % COLS / 16;
                lines[line].0[col % 16] = packed;
            }
        }
        let left = Left { words: bytemuck::cast_slice(&a), stride: words, rows };
        let right = Panels { lines: &lines, stride: words * LINES, count: cols / COLS };
        for isa in Isa::available() {
            let mut values = vec![1f32; rows * cols];
            let out = ProductOut { values: &mut values, stride: cols, add: true };
            multiply::<T>(isa, left, right, words, out);
            for (i, found) in values.iter().enumerate() {
                let (row, col) = (i / cols, i % cols);
                let terms = (0..inner)
                    .map(|k| f64::from(a[row * inner + k].widen() * b[k * cols + col].widen()));
                let expected = 1.0 + terms.sum::<f64>();
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{isa:?} {row} {col}");
            }
        }
    }

    #[test]
    fn every_isa_gives_the_product() {
        check::<f32>();
        check::<bf16>();
    }
}
