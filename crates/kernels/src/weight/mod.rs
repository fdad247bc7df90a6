//! A weight's storage: FP32, or BF16 with what it takes to be exact.

use crate::cpu::number::round_to_bf16;
use crate::cpu::views;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Error, Kind, Result, Tensor};
use half::bf16;

pub(crate) mod cuda;

/// Where the exact FP32 weight lies, and the working weight that follows it.
#[derive(Debug)]
pub enum Weight<'a> {
    /// The working weight is FP32 and exact.
    Single(&'a mut Tensor),
    /// BF16 working weight, rounded to nearest even from an FP32 master.
    Master {
        /// FP32.
        master: &'a mut Tensor,
        /// BF16.
        weight: &'a mut Tensor,
    },
    /// BF16 working weight, and the master's low 16 bits beside it as `i16`; see [`split`].
    Bf16Residual {
        /// BF16.
        weight: &'a mut Tensor,
        /// 16-bit integers.
        residual: &'a mut Tensor,
    },
}

/// Splits FP32 bits into BF16 bits, rounded to nearest (ties away from zero), and the low 16
/// bits, from which [`join`] makes the same FP32 bits again.
///
/// Published variants (modded-nanogpt) truncate instead, which leaves the working weight
/// biased towards zero by half a unit in the last place; this costs the same memory.
#[inline(always)]
pub fn split(bits: u32) -> (u16, i16) {
    ((bits.wrapping_add(0x8000) >> 16) as u16, bits as u16 as i16)
}

/// The FP32 bits that [`split`] took apart.
#[inline(always)]
pub fn join(high: u16, low: i16) -> u32 {
    (u32::from(high) << 16).wrapping_add(i32::from(low) as u32)
}

/// [`split`] for a tensor of FP32: BF16 weights and the low bits as 16-bit integers.
///
/// # Errors
/// A tensor that is not dense, FP32 and on the CPU.
pub fn split_tensor(exact: &Tensor) -> Result<(Tensor, Tensor)> {
    let values: &[f32] = views::read(exact, "a weight to split")?;
    let (high, low): (Vec<i16>, Vec<i16>) = values
        .iter()
        .map(|value| split(value.to_bits()))
        .map(|(high, low)| (high as i16, low))
        .unzip();
    let op = "split a weight";
    let shape = &exact.size()[..];
    let high = Tensor::f_from_slice(&high).during(op)?.f_view(shape).during(op)?;
    let weight = high.f_view_dtype(Kind::BFloat16).during(op)?;
    let low = Tensor::f_from_slice(&low).during(op)?.f_view(shape).during(op)?;
    Ok((weight, low))
}

/// [`join`] for what [`split_tensor`] returned: the same FP32 bits again.
///
/// # Errors
/// Tensors that are not dense, of those dtypes and one size, on the CPU.
pub fn join_tensor(weight: &Tensor, low: &Tensor) -> Result<Tensor> {
    let high: &[bf16] = views::read(weight, "a weight")?;
    let low: &[i16] = views::read(low, "low bits of a weight")?;
    same_count("join a weight", high.len(), low.len(), "low bits")?;
    let values: Vec<f32> = high
        .iter()
        .zip(low)
        .map(|(high, &low)| f32::from_bits(join(high.to_bits(), low)))
        .collect();
    let op = "join a weight";
    Tensor::f_from_slice(&values).during(op)?.f_view(&weight.size()[..]).during(op)
}

/// Slices of a weight's storage.
pub(crate) trait WeightSlices: Sized + Send {
    /// The same, cut after `count` values: the part before and the part after.
    fn split_at(self, count: usize) -> (Self, Self);
    /// Panics unless there are `count` values; lets the compiler drop later checks.
    fn assert_len(&self, count: usize);
    fn load(&self, index: usize) -> f32;
    fn store(&mut self, index: usize, value: f32);
}

/// [`Weight::Single`] as a slice.
pub(crate) struct SingleSlices<'a>(pub(crate) &'a mut [f32]);

/// [`Weight::Master`] as slices.
pub(crate) struct MasterSlices<'a> {
    pub(crate) master: &'a mut [f32],
    pub(crate) weight: &'a mut [bf16],
}

/// [`Weight::Bf16Residual`] as slices.
pub(crate) struct ResidualSlices<'a> {
    pub(crate) weight: &'a mut [bf16],
    pub(crate) low: &'a mut [i16],
}

impl WeightSlices for SingleSlices<'_> {
    fn split_at(self, count: usize) -> (Self, Self) {
        let (head, tail) = self.0.split_at_mut(count);
        (Self(head), Self(tail))
    }
    #[inline(always)]
    fn assert_len(&self, count: usize) {
        assert_eq!(self.0.len(), count);
    }
    #[inline(always)]
    fn load(&self, index: usize) -> f32 {
        self.0[index]
    }
    #[inline(always)]
    fn store(&mut self, index: usize, value: f32) {
        self.0[index] = value;
    }
}

impl WeightSlices for MasterSlices<'_> {
    fn split_at(self, count: usize) -> (Self, Self) {
        let (master, master_tail) = self.master.split_at_mut(count);
        let (weight, weight_tail) = self.weight.split_at_mut(count);
        (Self { master, weight }, Self { master: master_tail, weight: weight_tail })
    }
    #[inline(always)]
    fn assert_len(&self, count: usize) {
        assert_eq!(self.master.len(), count);
        assert_eq!(self.weight.len(), count);
    }
    #[inline(always)]
    fn load(&self, index: usize) -> f32 {
        self.master[index]
    }
    #[inline(always)]
    fn store(&mut self, index: usize, value: f32) {
        self.master[index] = value;
        self.weight[index] = bf16::from_bits(round_to_bf16(value));
    }
}

impl WeightSlices for ResidualSlices<'_> {
    fn split_at(self, count: usize) -> (Self, Self) {
        let (weight, weight_tail) = self.weight.split_at_mut(count);
        let (low, low_tail) = self.low.split_at_mut(count);
        (Self { weight, low }, Self { weight: weight_tail, low: low_tail })
    }
    #[inline(always)]
    fn assert_len(&self, count: usize) {
        assert_eq!(self.weight.len(), count);
        assert_eq!(self.low.len(), count);
    }
    #[inline(always)]
    fn load(&self, index: usize) -> f32 {
        f32::from_bits(join(self.weight[index].to_bits(), self.low[index]))
    }
    #[inline(always)]
    fn store(&mut self, index: usize, value: f32) {
        let (high, low) = split(value.to_bits());
        self.weight[index] = bf16::from_bits(high);
        self.low[index] = low;
    }
}

/// Refuses `tensor` of `found` values where the gradient has `grad`.
pub(crate) fn same_count(
    op: &'static str,
    grad: usize,
    found: usize,
    tensor: &'static str,
) -> Result<()> {
    if found == grad {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        tensor,
        found: vec![found as i64],
        expected: format!("{grad} values, as many as the gradient"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_even_and_splitting_is_exact() {
        let mut bits = 1u32;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            for bits in [bits, bits & 0xffff_8000, bits | 0x7f80_0000] {
                let value = f32::from_bits(bits);
                let rounded = bf16::from_bits(round_to_bf16(value));
                let expected = bf16::from_f32(value);
                assert!(rounded == expected || (rounded.is_nan() && expected.is_nan()), "{value}");
                let (high, low) = split(bits);
                assert_eq!(join(high, low), bits);
            }
        }
    }
}
