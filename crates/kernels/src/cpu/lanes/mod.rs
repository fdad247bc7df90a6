//! Sixteen FP32 numbers at a time: what kernels are written in where loops over slices do not
//! become vectors by themselves.
//!
//! A kernel is one generic function over [`Lanes`], always inlined; [`vectorized!`] compiles it
//! for each kind of lanes, and chooses on the machine that it runs on.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

use crate::cpu::number::Number;

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

/// Compiles `$body::<lanes, types>`, an always inlined function, for every kind of [`Lanes`].
///
/// Callers pass an [`Isa`](crate::cpu::isa::Isa) from `Isa::available`.
macro_rules! vectorized {
    (
        $(#[$doc:meta])*
        $visibility:vis fn $name:ident
        [$($generics:tt)*] [$($names:tt)*] ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?
        = $body:ident
    ) => {
        $(#[$doc])*
        $visibility fn $name<$($generics)*>(
            isa: $crate::cpu::isa::Isa, $($argument: $type),*
        ) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
            fn avx512_bf16<$($generics)*>($($argument: $type),*) $(-> $result)? {
                $body::<$crate::cpu::lanes::avx512::Avx512<true>, $($names)*>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512<$($generics)*>($($argument: $type),*) $(-> $result)? {
                $body::<$crate::cpu::lanes::avx512::Avx512<false>, $($names)*>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($generics)*>($($argument: $type),*) $(-> $result)? {
                $body::<$crate::cpu::lanes::portable::Portable, $($names)*>($($argument),*)
            }
            assert!(isa <= $crate::cpu::isa::Isa::fastest(), "{isa:?} is not on this machine");
            match isa {
                // SAFETY: the assertion above holds only where the CPU has these features.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::isa::Isa::Avx512 => unsafe {
                    if bert4rs_tensor_core::cpu::CpuFeatures::detect().avx512_bf16 {
                        avx512_bf16::<$($names)*>($($argument),*)
                    } else {
                        avx512::<$($names)*>($($argument),*)
                    }
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::isa::Isa::Avx2 => unsafe { avx2::<$($names)*>($($argument),*) },
                _ => $body::<$crate::cpu::lanes::portable::Portable, $($names)*>($($argument),*),
            }
        }
    };
}

pub(crate) use vectorized;

#[cfg(test)]
mod tests {
    #![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

    use super::*;
    use crate::cpu::isa::Isa;

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
