//! Sixteen FP32 numbers at a time: what kernels are written in where loops over slices do not
//! become vectors by themselves.
//!
//! A kernel is one generic function over [`Lanes`], always inlined; [`vectorized!`] compiles it
//! for each kind of lanes, and chooses on the machine that it runs on.

use crate::number::Number;

/// Numbers of a [`Lanes`].
pub(crate) const LANES: usize = 16;

/// Sixteen numbers. Slices that are read or written have at least so many.
///
/// The implementations for AVX-512 work only within functions that are compiled for it, which
/// [`vectorized!`] makes.
pub(crate) trait Lanes: Copy {
    /// One truth for each.
    type Mask: Copy;

    fn splat(value: f32) -> Self;
    fn load(from: &[f32]) -> Self;
    fn store(self, to: &mut [f32]);
    /// Reads numbers of any type, exactly.
    fn read<T: Number>(from: &[T]) -> Self;
    /// Writes numbers of any type, rounded to nearest even.
    fn write<T: Number>(self, to: &mut [T]);

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self · factor + term`, rounded once or twice.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The greater; `other` where either is NaN.
    fn max(self, other: Self) -> Self;
    /// Where `self < other`.
    fn below(self, other: Self) -> Self::Mask;
    /// Where `self` is NaN.
    fn is_nan(self) -> Self::Mask;
    /// `self` where the mask is true, else `other`.
    fn select(self, mask: Self::Mask, other: Self) -> Self;
    /// See [`exp`].
    fn exp(self) -> Self;
    /// The sum of all.
    fn sum(self) -> f32;
    /// The greatest of all.
    fn greatest(self) -> f32;
    /// Where each of `numbers` lies from `least` to `greatest`.
    fn between(numbers: &[i32], least: i32, greatest: i32) -> Self::Mask;
    /// Where both masks are true.
    fn both(one: Self::Mask, other: Self::Mask) -> Self::Mask;
}

/// Added to a number, it leaves the nearest whole one in the low bits: 1.5 · 2²³.
const ROUND: f32 = 12_582_912.0;
/// `ln 2` in two parts, so that whole multiples of the first are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// The coefficients of Cephes' expf, for |x| <= ln 2 / 2, the highest power first.
const EXP: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `e^x` to 2 units in the last place for `x` from -87 to 88; less than 1e-37 below, and at least
/// `e^88` above; NaN for NaN.
#[inline(always)]
pub(crate) fn exp<V: Lanes>(x: V) -> V {
    x.exp()
}

/// `e^x` of a small `x`, by its polynomial.
#[inline(always)]
fn exp_near_0<V: Lanes>(x: V) -> V {
    let mut p = V::splat(EXP[0]);
    for coefficient in &EXP[1..] {
        p = p.mul_add(x, V::splat(*coefficient));
    }
    p.mul(x).mul_add(x, x).add(V::splat(1.0))
}

/// `x - whole · ln 2`
#[inline(always)]
fn without<V: Lanes>(x: V, whole: V) -> V {
    let rest = whole.mul_add(V::splat(-LN2_HIGH), x);
    whole.mul_add(V::splat(-LN2_LOW), rest)
}

/// `tanh x`, to 1e-7 absolutely; NaN for NaN.
#[inline(always)]
pub(crate) fn tanh<V: Lanes>(x: V) -> V {
    // 1 - 2 / (1 + e^2x), which needs no other case for large |x|.
    let one = V::splat(1.0);
    let power = exp(x.add(x));
    one.sub(V::splat(2.0).div(one.add(power)))
}

/// Lanes of any processor: loops that the compiler may turn into its vectors.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn with(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = f(*value, other);
        }
        result
    }

    #[inline(always)]
    fn mask(self, f: impl Fn(usize, f32) -> bool) -> [bool; LANES] {
        let mut result = [false; LANES];
        for (i, (truth, value)) in result.iter_mut().zip(self.0).enumerate() {
            *truth = f(i, value);
        }
        result
    }
}

impl Lanes for Portable {
    type Mask = [bool; LANES];

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self::read(from)
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        self.write(to);
    }
    #[inline(always)]
    fn read<T: Number>(from: &[T]) -> Self {
        let mut result = [0.0; LANES];
        for (to, from) in result.iter_mut().zip(&from[..LANES]) {
            *to = from.widen();
        }
        Self(result)
    }
    #[inline(always)]
    fn write<T: Number>(self, to: &mut [T]) {
        for (to, from) in to[..LANES].iter_mut().zip(self.0) {
            *to = T::round(from);
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.with(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.with(other, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.with(other, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        self.mul(factor).add(term)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.with(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn below(self, other: Self) -> [bool; LANES] {
        self.mask(|i, value| value < other.0[i])
    }
    #[inline(always)]
    fn is_nan(self) -> [bool; LANES] {
        self.mask(|_, value| value.is_nan())
    }
    #[inline(always)]
    fn select(self, mask: [bool; LANES], other: Self) -> Self {
        let mut result = other;
        for ((value, own), truth) in result.0.iter_mut().zip(self.0).zip(mask) {
            *value = if truth { own } else { *value };
        }
        result
    }
    #[inline(always)]
    fn exp(self) -> Self {
        let (least, most) = (Self::splat(-87.0), Self::splat(88.0));
        // The greater of NaN and a number is the number, so that nothing strange is shifted.
        let bounded = self.max(least);
        let bounded = bounded.select(bounded.below(most), most);
        let shifted = bounded.mul(Self::splat(std::f32::consts::LOG2_E)).add(Self::splat(ROUND));
        let whole = shifted.sub(Self::splat(ROUND));
        let power = exp_near_0(without(bounded, whole)).with(shifted, |value, shifted| {
            f32::from_bits(value.to_bits().wrapping_add(shifted.to_bits() << 23))
        });
        let scaled = Self::splat(0.0).select(self.below(least), power);
        self.select(self.is_nan(), scaled)
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    fn greatest(self) -> f32 {
        self.0.iter().fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn between(numbers: &[i32], least: i32, greatest: i32) -> [bool; LANES] {
        Self::splat(0.0).mask(|i, _| (numbers[i] >= least) & (numbers[i] <= greatest))
    }
    #[inline(always)]
    fn both(one: [bool; LANES], other: [bool; LANES]) -> [bool; LANES] {
        Self::splat(0.0).mask(|i, _| one[i] & other[i])
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512 {
    #![expect(unsafe_code, reason = "vector instructions")]

    use std::arch::x86_64::*;

    use super::{LANES, Lanes, exp_near_0, without};
    use crate::number::Number;

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
}

/// Compiles `$body::<lanes, types>`, an always inlined function, for every kind of [`Lanes`].
///
/// Callers pass an [`Isa`](crate::isa::Isa) from `Isa::available`.
macro_rules! vectorized {
    (
        $(#[$doc:meta])*
        $visibility:vis fn $name:ident
        [$($generics:tt)*] [$($names:tt)*] ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?
        = $body:ident
    ) => {
        $(#[$doc])*
        $visibility fn $name<$($generics)*>(
            isa: $crate::isa::Isa, $($argument: $type),*
        ) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
            fn avx512_bf16<$($generics)*>($($argument: $type),*) $(-> $result)? {
                $body::<$crate::lanes::avx512::Avx512<true>, $($names)*>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512<$($generics)*>($($argument: $type),*) $(-> $result)? {
                $body::<$crate::lanes::avx512::Avx512<false>, $($names)*>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($generics)*>($($argument: $type),*) $(-> $result)? {
                $body::<$crate::lanes::Portable, $($names)*>($($argument),*)
            }
            assert!(isa <= $crate::isa::Isa::fastest(), "{isa:?} is not on this machine");
            match isa {
                // SAFETY: the assertion above holds only where the CPU has these features.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe {
                    if bert4rs_tensor_core::cpu::CpuFeatures::detect().avx512_bf16 {
                        avx512_bf16::<$($names)*>($($argument),*)
                    } else {
                        avx512::<$($names)*>($($argument),*)
                    }
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 => unsafe { avx2::<$($names)*>($($argument),*) },
                _ => $body::<$crate::lanes::Portable, $($names)*>($($argument),*),
            }
        }
    };
}
pub(crate) use vectorized;

#[cfg(test)]
mod tests {
    #![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

    use super::*;
    use crate::isa::Isa;

    vectorized! {
        fn exp_on[][](from: &[f32], to: &mut [f32]) = exp_all
    }

    #[inline(always)]
    fn exp_all<V: Lanes>(from: &[f32], to: &mut [f32]) {
        for (from, to) in from.chunks_exact(LANES).zip(to.chunks_exact_mut(LANES)) {
            exp(V::load(from)).store(to);
        }
    }

    #[test]
    fn exp_is_exact_to_two_units_in_the_last_place() {
        let from: Vec<f32> = (-870_000..880_000).map(|i| i as f32 * 1e-4).collect();
        for isa in Isa::available() {
            let mut to = vec![0.0; from.len()];
            exp_on(isa, &from, &mut to);
            for (x, y) in from.iter().zip(&to) {
                let error = (f64::from(*y) / f64::from(*x).exp() - 1.0).abs();
                assert!(error < 2.0 * f64::from(f32::EPSILON), "{isa:?} {x}: off by {error}");
            }
        }
    }

    #[test]
    fn exp_ends_where_it_should() {
        let mut from = [0.0; LANES];
        from[..5].copy_from_slice(&[f32::NEG_INFINITY, -1000.0, f32::MIN, f32::NAN, -f32::NAN]);
        from[5..8].copy_from_slice(&[f32::INFINITY, f32::MAX, 1000.0]);
        for isa in Isa::available() {
            let mut to = [7.0; LANES];
            exp_on(isa, &from, &mut to);
            assert_eq!(to[..3], [0.0; 3], "{isa:?}");
            assert!(to[3].is_nan() && to[4].is_nan(), "{isa:?}");
            assert!(to[5..8].iter().all(|&power| power >= 88f32.exp() * 0.999), "{isa:?} {to:?}");
            assert_eq!(to[8..], [1.0; 8], "{isa:?}");
        }
    }
}
