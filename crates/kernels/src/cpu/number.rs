//! The number types that kernels read and write, and how they lie in 32-bit words.

use crate::cpu::views::Element;
use half::bf16;

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

/// BF16 bits of `value`, rounded to nearest even; a NaN stays one.
#[inline(always)]
pub(crate) fn round_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
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
        bf16::from_bits(round_to_bf16(value))
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
