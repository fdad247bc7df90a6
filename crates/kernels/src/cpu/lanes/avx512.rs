//! Lanes of AVX-512.

#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::x86_64::*;

use super::{LANES, Lanes, exp_near_0, without};
use crate::cpu::number::Number;

/// Lanes of AVX-512; with `BF16`, rounded by the instruction for it.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(__m512);

// SAFETY, of all blocks below: kernels over these lanes are compiled and chosen only for a
// CPU that has them, and slices are cut to 16 numbers before they are read or written.
impl<const BF16: bool> Lanes for Avx512<BF16> {
    type Mask = __mmask16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_loadu_ps(from[..LANES].as_ptr()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to[..LANES].as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn read<T: Number>(from: &[T]) -> Self {
        let from = &from[..LANES];
        // SAFETY: see above; `T` is FP32, or BF16 where two fill a word.
        Self(unsafe {
            if T::PER_WORD == 1 {
                _mm512_loadu_ps(from.as_ptr().cast())
            } else {
                let halves = _mm256_loadu_si256(from.as_ptr().cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
            }
        })
    }
    #[inline(always)]
    fn write<T: Number>(self, to: &mut [T]) {
        let to = &mut to[..LANES];
        // SAFETY: as of `read`.
        unsafe {
            if T::PER_WORD == 1 {
                _mm512_storeu_ps(to.as_mut_ptr().cast(), self.0);
            } else {
                _mm256_storeu_si256(to.as_mut_ptr().cast(), self.halves());
            }
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn below(self, other: Self) -> __mmask16 {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn is_nan(self) -> __mmask16 {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0) }
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mask_blend_ps(mask, other.0, self.0) })
    }
    #[inline(always)]
    fn exp(self) -> Self {
        // Bounds that end at 0 and at infinity; the second operand, where either is NaN.
        // SAFETY: see above.
        let bounded = Self(unsafe {
            _mm512_min_ps(_mm512_set1_ps(200.0), _mm512_max_ps(_mm512_set1_ps(-200.0), self.0))
        });
        let scaled = bounded.mul(Self::splat(std::f32::consts::LOG2_E));
        // SAFETY: see above; to the nearest whole number.
        let whole = Self(unsafe { _mm512_roundscale_ps::<8>(scaled.0) });
        let power = exp_near_0(without(bounded, whole));
        // SAFETY: see above.
        Self(unsafe { _mm512_scalef_ps(power.0, whole.0) })
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    #[inline(always)]
    fn between(numbers: &[i32], least: i32, greatest: i32) -> __mmask16 {
        // SAFETY: see above.
        unsafe {
            let numbers = _mm512_loadu_si512(numbers[..LANES].as_ptr().cast());
            let above = _mm512_cmpge_epi32_mask(numbers, _mm512_set1_epi32(least));
            _mm512_mask_cmple_epi32_mask(above, numbers, _mm512_set1_epi32(greatest))
        }
    }
    #[inline(always)]
    fn both(one: __mmask16, other: __mmask16) -> __mmask16 {
        one & other
    }
}

impl<const BF16: bool> Avx512<BF16> {
    /// Rounded to BF16.
    ///
    /// # Safety
    /// As of all above.
    #[inline(always)]
    unsafe fn halves(self) -> __m256i {
        // SAFETY: the caller's promise; a BF16 vector is any 256 bits.
        unsafe {
            if BF16 {
                return std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0));
            }
            let bits = _mm512_castps_si512(self.0);
            let high = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
            let nudged = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(nudged, odd));
            let quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
            let chosen = _mm512_mask_blend_epi32(self.is_nan(), rounded, quiet);
            _mm512_cvtepi32_epi16(chosen)
        }
    }
}
