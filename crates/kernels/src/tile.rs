//! Small matrix products over packed operands: what attention and the output layer are made of.
//!
//! A product is `out = A B`, or `out += A B`. `A` lies row by row, in words along the inner
//! dimension. `B` is packed in panels of 32 columns: word `w` of column `c` of a panel is word
//! `32 w + c` of it. Tiles of 8 rows by 32 columns stay in registers over the inner dimension.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::Kind;
use bert4rs_tensor_core::cpu::CpuFeatures;

use crate::isa::{Isa, multiversioned};
use crate::lanes::{LANES, Lanes, vectorized};
use crate::number::{CacheLine, Number};

/// Rows of a tile.
pub(crate) const ROWS: usize = 8;
/// Columns of a tile, and of a panel.
pub(crate) const COLS: usize = 32;
/// Lines of a panel for a word.
const LINES: usize = COLS / 16;

/// Whether kernels made of these products are faster here than libtorch's: in FP32, where MKL
/// may keep to 256 bits; in BF16, where it has dot products but no matrix units, which libtorch's
/// products know how to use.
pub(crate) fn is_fast(kind: Kind) -> bool {
    let cpu = CpuFeatures::detect();
    match kind {
        Kind::BFloat16 => cpu.avx512_bf16 && !cpu.amx_bf16,
        Kind::Float => cpu.avx512,
        _ => false,
    }
}

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
pub(crate) fn product<T: Number>(isa: Isa, a: Left, b: Panels, words: usize, out: ProductOut) {
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
        unsafe { avx512::product::<T>(a, b, words, out) };
        return;
    }
    let _ = whole;
    product_on::<T>(isa, a, b, words, out);
}

multiversioned! {
    /// [`product_body`] on `isa`.
    fn product_on[T: Number][T](a: Left<'_>, b: Panels<'_>, words: usize, out: ProductOut<'_>)
        = product_body
}

#[inline(always)]
fn product_body<T: Number>(a: Left<'_>, b: Panels<'_>, words: usize, out: ProductOut<'_>) {
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
    #![expect(unsafe_code, reason = "vector instructions")]

    use std::arch::x86_64::*;

    use super::{COLS, LINES, Left, Panels, ProductOut, ROWS};
    use crate::number::Number;
    use crate::number::avx512::multiply_add;

    /// # Safety
    /// The CPU has AVX-512 F, and BF16 where `T` is that; the sizes fit as `product` checks.
    pub(super) unsafe fn product<T: Number>(a: Left, b: Panels, words: usize, out: ProductOut) {
        // SAFETY: the caller's promises.
        unsafe {
            if T::PER_WORD == 1 {
                product_f32::<T>(a, b, words, out);
            } else {
                product_bf16::<T>(a, b, words, out);
            }
        }
    }

    /// # Safety
    /// As of [`product`].
    #[target_feature(enable = "avx512f")]
    unsafe fn product_f32<T: Number>(a: Left, b: Panels, words: usize, out: ProductOut) {
        // SAFETY: the caller's promises.
        unsafe { product_body::<T>(a, b, words, out) };
    }

    /// # Safety
    /// As of [`product`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn product_bf16<T: Number>(a: Left, b: Panels, words: usize, out: ProductOut) {
        // SAFETY: the caller's promises.
        unsafe { product_body::<T>(a, b, words, out) };
    }

    /// # Safety
    /// As of [`product`].
    #[inline(always)]
    unsafe fn product_body<T: Number>(a: Left, b: Panels, words: usize, out: ProductOut) {
        for panel in 0..b.count {
            for row in (0..a.rows).step_by(ROWS) {
                // SAFETY: the caller's promises: all of the tile lies within the slices.
                unsafe {
                    let left = a.words.as_ptr().add(row * a.stride);
                    let right = b.lines.as_ptr().add(panel * b.stride).cast::<u32>();
                    let to = out.values.as_mut_ptr().add(row * out.stride + panel * COLS);
                    tile::<T>((left, a.stride), right, words, (to, out.stride), out.add);
                }
            }
        }
    }

    /// # Safety
    /// As of [`product`], for one tile.
    #[inline(always)]
    unsafe fn tile<T: Number>(
        (left, left_stride): (*const u32, usize),
        right: *const u32,
        words: usize,
        (to, stride): (*mut f32, usize),
        add: bool,
    ) {
        // SAFETY: the caller's promises; lines are aligned to their 64 bytes.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); LINES]; ROWS];
            if add {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (half, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(to.add(row * stride + 16 * half));
                    }
                }
            }
            for word in 0..words {
                let b0 = _mm512_load_si512(right.add(word * COLS).cast());
                let b1 = _mm512_load_si512(right.add(word * COLS + 16).cast());
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = left.add(row * left_stride + word).read_unaligned();
                    let a = _mm512_set1_epi32(value as i32);
                    sums[0] = multiply_add::<T>(a, b0, sums[0]);
                    sums[1] = multiply_add::<T>(a, b1, sums[1]);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (half, &sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(to.add(row * stride + 16 * half), sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::number::EMPTY;

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
            product::<T>(isa, left, right, words, out);
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
