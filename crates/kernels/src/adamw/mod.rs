//! AdamW in one pass over memory.
//!
//! With gradient `g`, moments `m` and `v`, exact weight `p`, all FP32 in registers:
//!
//! ```text
//! g = g * grad_scale
//! m = m + (1 - beta1) * (g - m)
//! v = beta2 * v + (1 - beta2) * g²
//! u = m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//! p = p * (1 - lr * decay) - lr / (1 - beta1^t) * u
//! ```
//!
//! as in PyTorch's `fused_adam_utils.cuh`. Cautious decay (modded-nanogpt) multiplies `p` only
//! where `u * p > 0`. The working weight, `p` rounded to BF16, is written in the same pass.

mod cpu;
mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use bert4rs_tensor_core::{Device, Error, Result, Tensor};

use crate::cpu::isa::Isa;
use crate::cpu::views;

pub use crate::weight::Weight;
pub use reference::step_reference;

const OP: &str = "AdamW";

/// The scalars of one step, the same for all values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct AdamwKernelScalars {
    /// Factor on the gradient, from clipping. With 0 a gradient counts as 0 even where it is not
    /// finite.
    pub grad_scale: f32,
    /// `1 - beta1`.
    pub one_minus_beta1: f32,
    /// `beta2`.
    pub beta2: f32,
    /// `1 - beta2`.
    pub one_minus_beta2: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub inverse_sqrt_correction2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// `1 - lr * decay`.
    pub decay_factor: f32,
    /// `lr / (1 - beta1^t)`.
    pub step_size: f32,
}

impl AdamwKernelScalars {
    /// Number of scalars.
    pub const COUNT: usize = 8;

    /// As kernels read them from a tensor: FP32 `[8]`, in the order of the fields.
    pub fn to_array(self) -> [f32; Self::COUNT] {
        bytemuck::cast(self)
    }

    /// Read from a CPU tensor.
    fn read(numbers: &Tensor) -> Result<Self> {
        let found = views::read::<f32>(numbers, "the numbers of a step")?;
        let found: [f32; Self::COUNT] = found.try_into().map_err(|_| Error::Shape {
            op: OP,
            tensor: "numbers",
            found: numbers.size(),
            expected: format!("[{}]", Self::COUNT),
        })?;
        Ok(bytemuck::cast(found))
    }
}

/// One parameter's part in a step. All tensors but `numbers` have as many values as `grad`.
#[derive(Debug)]
pub struct ParamUpdate<'a> {
    /// The [`AdamwKernelScalars`] of this step, read when the step runs: FP32 `[8]`, on the device
    /// of all.
    pub numbers: &'a Tensor,
    /// Decay only where update and weight agree in sign.
    pub cautious: bool,
    /// FP32 or BF16.
    pub grad: &'a Tensor,
    /// First moment, FP32.
    pub moment1: &'a mut Tensor,
    /// Second moment, FP32.
    pub moment2: &'a mut Tensor,
    /// The weight, read and written.
    pub weight: Weight<'a>,
}

/// One AdamW step for all `updates`, in parallel over values; all are on one device.
///
/// The same bits for any device, thread count and instruction set.
///
/// # Errors
/// A tensor of another dtype, device, layout or count of values than [`ParamUpdate`] says, or two
/// that share memory. Nothing has been changed then.
pub fn step(updates: Vec<ParamUpdate<'_>>) -> Result<()> {
    step_on(Isa::fastest(), updates)
}

/// [`step`] on an instruction set of [`Isa::available`].
fn step_on(isa: Isa, updates: Vec<ParamUpdate<'_>>) -> Result<()> {
    check_overlap(&updates)?;
    match updates.first().map(|update| update.grad.device()) {
        Some(device @ Device::Cuda(_)) => cuda::step(&updates, device),
        _ => cpu::step(isa, updates),
    }
}

/// Checks that no two tensors of `updates` that are written, or read beside one written, overlap.
fn check_overlap(updates: &[ParamUpdate<'_>]) -> Result<()> {
    let mut ranges = Vec::with_capacity(5 * updates.len());
    let mut add = |tensor: &Tensor| {
        let range = views::range(tensor);
        ranges.push((range.start, range.end));
    };
    for update in updates {
        add(update.grad);
        add(update.moment1);
        add(update.moment2);
        match &update.weight {
            Weight::Single(weight) => add(weight),
            Weight::Master { master: other, weight }
            | Weight::Bf16Residual { weight, residual: other } => {
                add(other);
                add(weight);
            }
        }
    }
    ranges.retain(|(start, end)| start < end);
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(Error::Unsupported {
            what: "AdamW in one pass".into(),
            reason: "two of its tensors share memory".into(),
        });
    }
    Ok(())
}
