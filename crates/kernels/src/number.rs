//! The number types that kernels read and write, and how they lie in 32-bit words.

use half::bf16;

use crate::slices::Element;

/// A cache line of 32-bit words, so that no vector of packed numbers lies across two.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct CacheLine(pub(crate) [u32; 16]);

/// Zeros.
pub(crate) const EMPTY: CacheLine = CacheLine([0; 16]);

/// A number type of a kernel's operands. Sums are FP32 for all.
pub(crate) trait Number: Element {
    /// Values in a 32-bit word.
    const PER_WORD: usize;
    /// Its value, exactly.
    fn widen(self) -> f32;
    /// The nearest, ties to even.
    fn round(value: f32) -> Self;
    /// The word of two values that follow each other; of the first alone where one fills it.
    fn word(first: Self, second: Self) -> u32;
    /// The values of a word, the second 0 where one fills it.
    fn values(word: u32) -> [f32; 2];
}

impl Number for f32 {
    const PER_WORD: usize = 1;
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn word(first: Self, _: Self) -> u32 {
        first.to_bits()
    }
    #[inline(always)]
    fn values(word: u32) -> [f32; 2] {
        [f32::from_bits(word), 0.0]
    }
}

impl Number for bf16 {
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn round(value: f32) -> Self {
        bf16::from_bits(crate::weight::round_to_bf16(value))
    }
    #[inline(always)]
    fn word(first: Self, second: Self) -> u32 {
        u32::from(first.to_bits()) | (u32::from(second.to_bits()) << 16)
    }
    #[inline(always)]
    fn values(word: u32) -> [f32; 2] {
        [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512 {
    #![expect(unsafe_code, reason = "vector instructions")]

    use std::arch::x86_64::*;

    use super::Number;

    /// Adds the products of words of `a` and `b`.
    ///
    /// # Safety
    /// The CPU has AVX-512 F, and BF16 where `T` is that, for which the caller is compiled.
    #[inline(always)]
    pub(crate) unsafe fn multiply_add<T: Number>(a: __m512i, b: __m512i, sum: __m512) -> __m512 {
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
}
