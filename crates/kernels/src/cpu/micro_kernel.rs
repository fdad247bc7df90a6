//! The micro-kernel of matrix products, on AVX-512: a tile of the result that stays in registers
//! over the whole inner dimension.
//!
//! Rows of the left operand are read where they lie. Columns of the right one come packed: the
//! words of 32 columns side by side, for one word of the inner dimension after the other. BF16
//! goes in pairs along the inner dimension: a pair is a 32-bit word, as an FP32 number is, and one
//! instruction multiplies and adds both.

#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::x86_64::*;

use super::number::Number;

/// Columns of a tile: two vectors.
pub(crate) const COLS: usize = 32;

/// A tile of a product, `ROWS` by 32.
#[derive(Clone, Copy)]
pub(crate) struct Tile<const ROWS: usize> {
    /// Where the left operand's rows begin, at any address.
    pub(crate) rows: [*const u32; ROWS],
    /// Where the right operand's columns begin, at a multiple of 64 bytes.
    pub(crate) panel: *const u32,
    /// Words of the inner dimension.
    pub(crate) words: usize,
    /// Where the result begins.
    pub(crate) out: *mut f32,
    /// Numbers from one row of the result to the next.
    pub(crate) stride: usize,
    /// Whether the product is added to what is there.
    pub(crate) add: bool,
}

impl<const ROWS: usize> Tile<ROWS> {
    /// Computes the tile. Each result is summed in the order of the inner dimension, whatever
    /// `ROWS` is.
    ///
    /// # Safety
    /// The CPU has AVX-512 F, and BF16 where `T` is that, for which the caller is compiled; each
    /// row has `words` words, the panel 32 times as many, and the result 32 numbers in each row.
    #[inline(always)]
    pub(crate) unsafe fn compute<T: Number>(self) {
        let Self { rows, panel, words, out, stride, add } = self;
        // SAFETY: the caller's promises.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            if add {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (half, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(out.add(row * stride + 16 * half));
                    }
                }
            }
            for word in 0..words {
                let first = _mm512_load_si512(panel.add(word * COLS).cast());
                let second = _mm512_load_si512(panel.add(word * COLS + 16).cast());
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let value = _mm512_set1_epi32(row.add(word).read_unaligned() as i32);
                    sums[0] = multiply_add::<T>(value, first, sums[0]);
                    sums[1] = multiply_add::<T>(value, second, sums[1]);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (half, &sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(out.add(row * stride + 16 * half), sum);
                }
            }
        }
    }
}

/// Adds the products of words of `a` and `b` to `sum`.
///
/// # Safety
/// The CPU has AVX-512 F, and BF16 where `T` is that, for which the caller is compiled.
#[inline(always)]
unsafe fn multiply_add<T: Number>(a: __m512i, b: __m512i, sum: __m512) -> __m512 {
    // SAFETY: the caller's promise; a BF16 vector is any 512 bits.
    unsafe {
        if T::PER_WORD == 2 {
            let a = std::mem::transmute::<__m512i, __m512bh>(a);
            let b = std::mem::transmute::<__m512i, __m512bh>(b);
            _mm512_dpbf16_ps(sum, a, b)
        } else {
            _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
        }
    }
}
