//! Sum of squares, in FP64: what clipping and the check for non-finite gradients need.
//!
//! A square of an FP32 or BF16 number fits FP64's range, so the sum is finite exactly when
//! every value is.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::{Device, Kind, Result, Tensor, parallel};
use half::bf16;

use crate::cuda;
use crate::isa::{Isa, multiversioned};
use crate::slices;

/// Values a task takes at a time.
const CHUNK: usize = 1 << 16;
/// Independent sums, so that the loop becomes vector additions.
const LANES: usize = 32;

/// Sum of the squares of `values`.
#[inline(always)]
fn sum_of_squares_body<T: Copy + Into<f32>>(values: &[T]) -> f64 {
    let mut sums = [0f64; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for lanes in whole {
        for (sum, &value) in sums.iter_mut().zip(lanes) {
            let value = f64::from(value.into());
            *sum += value * value;
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        let value = f64::from(value.into());
        *sum += value * value;
    }
    sums.iter().sum()
}

multiversioned! {
    /// Sum of the squares of `values`, on `isa`.
    fn sum_of_squares_on[T: Copy + Into<f32>][T](values: &[T]) -> f64 = sum_of_squares_body
}

/// BF16 that widens by a shift, which compiles to vectors; `half`'s conversion asks the CPU.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Wide(u16);

impl From<Wide> for f32 {
    #[inline(always)]
    fn from(value: Wide) -> Self {
        f32::from_bits(u32::from(value.0) << 16)
    }
}

fn sum_in_parallel<T: Copy + Into<f32> + Sync>(values: &[T]) -> f64 {
    let isa = Isa::fastest();
    // Summed in order, so that the result does not depend on the threads.
    let chunks: Vec<&[T]> = values.chunks(CHUNK).collect();
    parallel::map(chunks.len(), |index| sum_of_squares_on(isa, chunks[index])).iter().sum()
}

/// Sum of the squares of a dense FP32 or BF16 CPU tensor. The same bits for any thread count.
///
/// # Errors
/// Another dtype, device or layout.
pub fn sum_of_squares(tensor: &Tensor) -> Result<f64> {
    let what = "a sum of squares";
    match tensor.kind() {
        Kind::BFloat16 => {
            let values: &[bf16] = slices::read(tensor, what)?;
            Ok(sum_in_parallel(bytemuck::cast_slice::<bf16, Wide>(values)))
        }
        _ => Ok(sum_in_parallel(slices::read::<f32>(tensor, what)?)),
    }
}

/// Whether [`sums_of_squares`] takes tensors of `device`: a GPU where our kernels are preferred.
pub fn supports_many(device: Device) -> bool {
    cuda::is_preferred(device)
}

/// The sum of the squares of each of `tensors`, 0 for an undefined one: FP64 `[n]` on `device`, a
/// GPU, without waiting for it. All are dense and of FP32 or BF16. Parts of sums are taken in
/// FP32: they are infinite for numbers above 1e19.
///
/// # Errors
/// Other tensors, and what the driver says.
pub fn sums_of_squares(tensors: &[Tensor], device: Device) -> Result<Tensor> {
    cuda::sum_of_squares::sums(tensors, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_isa_agrees_with_a_plain_sum() {
        let values: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.0) * 1e18).collect();
        let plain: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        for isa in Isa::available() {
            let sum = sum_of_squares_on(isa, &values);
            assert!((sum / plain - 1.0).abs() < 1e-14, "{isa:?}: {sum} for {plain}");
        }
    }

    #[test]
    fn finite_exactly_when_every_value_is() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![f32::MAX; 70_000];
            assert!(sum_of_squares(&Tensor::from_slice(&values)).unwrap().is_finite());
            values[69_999] = bad;
            let tensor = Tensor::from_slice(&values);
            assert!(!sum_of_squares(&tensor).unwrap().is_finite());
            assert!(!sum_of_squares(&tensor.to_kind(Kind::BFloat16)).unwrap().is_finite());
        }
    }
}
