//! The two 8-bit formats, and FP32 rounded to them: the plain reference and the fast form.
//!
//! Source: arXiv 2209.05433 (OFP8). `E4M3` has no infinity: its largest exponent holds numbers up
//! to 448 and one NaN a sign. Rounding is to nearest even; what lies beyond the largest number,
//! infinities too, becomes that number; a NaN keeps its sign and stays one.
//!
//! libtorch's own conversions differ only beyond the largest number: there E4M3 becomes NaN and
//! E5M2 an infinity. NVIDIA's `cvt.rn.satfinite` differs only in the sign of a NaN.

use bert4rs_tensor_core::Kind;

/// An 8-bit floating-point format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 4 bits of exponent, 3 of mantissa, up to 448: weights and activations.
    E4M3,
    /// 5 bits of exponent, 2 of mantissa, up to 57,344: gradients.
    E5M2,
}

impl Format {
    /// The largest number.
    pub const fn max(self) -> f32 {
        match self {
            Self::E4M3 => 448.0,
            Self::E5M2 => 57_344.0,
        }
    }

    /// libtorch's name of it.
    pub const fn kind(self) -> Kind {
        match self {
            Self::E4M3 => Kind::Float8e4m3fn,
            Self::E5M2 => Kind::Float8e5m2,
        }
    }

    /// Bits of the mantissa.
    const fn mantissa(self) -> u32 {
        match self {
            Self::E4M3 => 3,
            Self::E5M2 => 2,
        }
    }

    /// What is added to an exponent before it is stored.
    const fn bias(self) -> u32 {
        match self {
            Self::E4M3 => 7,
            Self::E5M2 => 15,
        }
    }

    /// FP32 bits of the least magnitude that would be rounded beyond the largest number: above
    /// the halfway point to the next number for E4M3, whose largest is even; at it for E5M2.
    pub(crate) const fn first_overflow(self) -> u32 {
        match self {
            Self::E4M3 => 464f32.to_bits() + 1,
            Self::E5M2 => 61_440f32.to_bits(),
        }
    }

    /// The factor that brings `amax` to the largest number. Values below 2⁻¹⁰⁰ count as that, so
    /// that the factor and its inverse are finite and normal.
    pub fn factor(self, amax: f32) -> f32 {
        const LEAST: f32 = f32::from_bits((127 - 100) << 23);
        self.max() / amax.max(LEAST)
    }

    /// The number that `bits` stand for.
    pub fn decode(self, bits: u8) -> f32 {
        let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
        let magnitude = bits & 0x7f;
        let (mantissa, bias) = (self.mantissa(), self.bias() as i32);
        let (exponent, fraction) = (magnitude >> mantissa, magnitude & ((1 << mantissa) - 1));
        let unit = 1.0 / (1u32 << mantissa) as f32;
        let fraction_value = f32::from(fraction) * unit;
        match self {
            Self::E4M3 if magnitude == 0x7f => return f32::NAN.copysign(sign),
            Self::E5M2 if exponent == 31 && fraction != 0 => return f32::NAN.copysign(sign),
            Self::E5M2 if exponent == 31 => return f32::INFINITY.copysign(sign),
            _ => {}
        }
        sign * match exponent {
            0 => fraction_value * 2f32.powi(1 - bias),
            _ => (1.0 + fraction_value) * 2f32.powi(i32::from(exponent) - bias),
        }
    }

    /// The plain reference of `encode`: the nearest of all numbers, the even one of two.
    pub fn encode_reference(self, value: f32) -> u8 {
        let sign = if value.is_sign_negative() { 0x80 } else { 0 };
        if value.is_nan() {
            return 0x7f | sign;
        }
        let magnitude = f64::from(value.abs()).min(f64::from(self.max()));
        let largest = match self {
            Self::E4M3 => 0x7e,
            Self::E5M2 => 0x7b,
        };
        let distance = |bits: u8| (f64::from(self.decode(bits)) - magnitude).abs();
        let nearer = |best: u8, bits: u8| match distance(bits).total_cmp(&distance(best)) {
            std::cmp::Ordering::Less => bits,
            std::cmp::Ordering::Equal if bits.is_multiple_of(2) => bits,
            _ => best,
        };
        (1..=largest).fold(0, nearer) | sign
    }
}

/// FP32 `bits` rounded to a format, as its 8 bits, and whether that overflowed. Without branches,
/// so that a loop of it becomes vectors.
#[inline(always)]
pub(crate) fn encode(format: Format, bits: u32) -> (u8, bool) {
    let (mantissa, bias) = (format.mantissa(), format.bias());
    let shift = 23 - mantissa;
    let sign = (bits >> 24) & 0x80;
    let magnitude = bits & 0x7fff_ffff;
    let is_nan = magnitude > f32::INFINITY.to_bits();
    let bounded = magnitude.min(format.max().to_bits());
    // Numbers: round off the mantissa's tail, which may carry into the exponent, and rebias.
    let half = (1 << (shift - 1)) - 1 + ((bounded >> shift) & 1);
    let number = (bounded.wrapping_add(half) >> shift).wrapping_sub((127 - bias) << mantissa);
    // Below the least normal number: adding a power of two whose last bit is the format's
    // smallest step makes the FP32 unit round, to nearest even.
    let step = (127 + 23 + 1 - bias - mantissa) << 23;
    let small = (f32::from_bits(bounded) + f32::from_bits(step)).to_bits().wrapping_sub(step);
    let encoded = if bounded < ((128 - bias) << 23) { small } else { number };
    let encoded = if is_nan { 0x7f } else { encoded };
    ((encoded | sign) as u8, !is_nan && magnitude >= format.first_overflow())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bert4rs_tensor_core::Tensor;

    const FORMATS: [Format; 2] = [Format::E4M3, Format::E5M2];

    /// libtorch's conversion, as bits.
    fn by_libtorch(format: Format, values: &[f32]) -> Vec<u8> {
        let cast = Tensor::from_slice(values).to_kind(format.kind()).view_dtype(Kind::Uint8);
        Vec::<u8>::try_from(cast).unwrap()
    }

    /// Holds [`encode`] against the plain form and libtorch.
    fn check(format: Format, values: &[f32]) {
        for (&value, torch) in values.iter().zip(by_libtorch(format, values)) {
            let (found, overflows) = encode(format, value.to_bits());
            assert_eq!(found, format.encode_reference(value), "{format:?} of {value:e}");
            if overflows {
                assert_eq!(format.decode(found), format.max().copysign(value), "{value:e}");
                let beyond = format.decode(torch);
                assert!(!beyond.is_finite(), "libtorch makes {value:e} {beyond}");
            } else {
                assert_eq!(found, torch, "{format:?} of {value:e} ({:x})", value.to_bits());
            }
        }
    }

    #[test]
    fn every_bf16_number_is_rounded_as_libtorch_does() {
        let all: Vec<f32> =
            (0..=u16::MAX).map(|bits| f32::from_bits(u32::from(bits) << 16)).collect();
        FORMATS.iter().for_each(|&format| check(format, &all));
    }

    #[test]
    fn random_fp32_bits_and_all_halfway_points_are_rounded_as_libtorch_does() {
        let mut state = 1u32;
        let random = (0..20_000).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(state ^ (state >> 15))
        });
        // Uniform bits are mostly far out of range: draw as many of a magnitude that fits.
        let mut values: Vec<f32> = random.collect();
        let near: Vec<f32> =
            values.iter().map(|v| (v.to_bits() as f32 / 4e9 - 0.5) * 900.0).collect();
        values.extend(near.iter().flat_map(|v| [*v, v * 1e-4, v * 150.0]));
        for format in FORMATS {
            let mut all = values.clone();
            for bits in 0..0x7f {
                let (low, high) = (format.decode(bits), format.decode(bits + 1));
                let middle = ((f64::from(low) + f64::from(high)) / 2.0) as f32;
                if middle.is_finite() {
                    let around = [middle, middle.next_up(), middle.next_down(), -middle];
                    all.extend(around);
                }
            }
            check(format, &all);
        }
    }

    #[test]
    fn every_number_is_itself() {
        for format in FORMATS {
            for bits in 0..=255 {
                let value = format.decode(bits);
                let again = encode(format, value.to_bits()).0;
                assert!(again == bits || !value.is_finite(), "{bits:x} is {value}, then {again:x}");
            }
        }
    }

    #[test]
    fn infinities_saturate_and_nans_keep_their_sign() {
        for format in FORMATS {
            let encoded = |value: f32| encode(format, value.to_bits());
            assert_eq!(format.decode(encoded(f32::INFINITY).0), format.max());
            assert_eq!(format.decode(encoded(f32::NEG_INFINITY).0), -format.max());
            assert!(encoded(f32::INFINITY).1 && !encoded(f32::NAN).1);
            assert_eq!(encoded(f32::NAN.copysign(1.0)).0, 0x7f);
            assert_eq!(encoded(f32::NAN.copysign(-1.0)).0, 0xff);
        }
    }

    #[test]
    fn factors_are_finite_and_normal() {
        for format in FORMATS {
            for amax in [0.0, f32::from_bits(1), 1e-30, 1.0, f32::MAX] {
                let factor = format.factor(amax);
                assert!(factor.is_normal() && (1.0 / factor).is_normal(), "{factor} of {amax}");
            }
        }
    }
}
