//! Lanes of any processor: loops that the compiler may turn into its vectors.

use super::{LANES, Lanes, ROUND, exp_near_0, without};
use crate::cpu::number::Number;

/// Sixteen numbers in an array.
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
