//! Sum of squares, in FP64: what clipping and the check for non-finite gradients need.
//!
//! A square of an FP32 or BF16 number fits FP64's range, so the sum is finite exactly when
//! every value is.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use bert4rs_tensor_core::{Device, Kind, Result, Tensor};
use half::bf16;

use crate::cpu::views;

/// Sum of the squares of a dense FP32 or BF16 CPU tensor. The same bits for any thread count.
///
/// # Errors
/// Another dtype, device or layout.
pub fn sum_of_squares(tensor: &Tensor) -> Result<f64> {
    let what = "a sum of squares";
    match tensor.kind() {
        Kind::BFloat16 => Ok(cpu::sum_in_parallel(views::read::<bf16>(tensor, what)?)),
        _ => Ok(cpu::sum_in_parallel(views::read::<f32>(tensor, what)?)),
    }
}

/// Whether [`sums_of_squares`] takes all of `tensors`: those that are defined dense and FP32 or
/// BF16, on one GPU.
pub fn supports_many(tensors: &[Tensor], device: Device) -> bool {
    let fits = |x: &Tensor| {
        matches!(x.kind(), Kind::BFloat16 | Kind::Float)
            && x.device() == device
            && x.is_contiguous()
    };
    matches!(device, Device::Cuda(_)) && tensors.iter().all(|x| !x.defined() || fits(x))
}

/// The sum of the squares of each of `tensors`, 0 for an undefined one: FP64 `[n]` on `device`, a
/// GPU, without waiting for it. All are dense and of FP32 or BF16. Parts of sums are taken in
/// FP32: they are infinite for numbers above 1e19.
///
/// # Errors
/// Other tensors, and what the driver says.
pub fn sums_of_squares(tensors: &[Tensor], device: Device) -> Result<Tensor> {
    cuda::sums(tensors, device)
}
