//! [`crate::adamw::step`] on a GPU.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use crate::adamw::AdamwKernelScalars;
use crate::cuda::launch::{Arg, KernelLaunch};
use crate::cuda::{address, check, is_aligned, source};
use crate::weight::{self, same_count};
use bert4rs_tensor_core::{Device, Kind, Result};
use bytemuck::{Pod, Zeroable};

/// As in `adamw.cu`.
const THREADS: u32 = 256;

const CHUNK: u64 = THREADS as u64 * 8 * 4;

/// So many fit into the 4 KiB that every driver takes as a kernel's parameters.
const MOST_UPDATES: usize = 32;

/// `ParamUpdate` of `adamw.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct UpdateEntry {
    grad: u64,
    moment1: u64,
    moment2: u64,
    weight: u64,
    other: u64,
    count: u64,
    numbers: u64,
    first_chunk: u32,
    flags: u32,
}

/// `ParamUpdates` of `adamw.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct UpdateEntries {
    count: u64,
    entries: [UpdateEntry; MOST_UPDATES],
}

fn entry(update: &crate::adamw::ParamUpdate<'_>, device: Device) -> Result<UpdateEntry> {
    let op = "AdamW";
    crate::cuda::check_float(update.grad, "gradient")?;
    check(update.grad, update.grad.kind(), device, "gradient")?;
    let count = update.grad.numel();
    for (moment, what) in [(&*update.moment1, "first moment"), (&*update.moment2, "second moment")]
    {
        check(moment, Kind::Float, device, what)?;
        same_count(op, count, moment.numel(), what)?;
    }
    check(update.numbers, Kind::Float, device, "numbers of a step")?;
    same_count(op, AdamwKernelScalars::COUNT, update.numbers.numel(), "numbers of a step")?;
    let (form, weight, other) = weight::cuda::parts(op, &update.weight, count, device)?;
    let tensors = [update.grad, &*update.moment1, &*update.moment2, weight];
    let aligned = tensors.into_iter().chain(other).all(is_aligned);
    let is_bf16 = update.grad.kind() == Kind::BFloat16;
    let flag = |bit: u32, on: bool| if on { bit } else { 0 };
    Ok(UpdateEntry {
        grad: address(update.grad),
        moment1: address(&*update.moment1),
        moment2: address(&*update.moment2),
        weight: address(weight),
        other: address(other),
        count: count as u64,
        numbers: address(update.numbers),
        first_chunk: 0,
        flags: form + flag(4, is_bf16) + flag(8, update.cautious) + flag(16, aligned),
    })
}

/// One step for all `updates`, which are on `device` and share no memory.
pub(crate) fn step(updates: &[crate::adamw::ParamUpdate<'_>], device: Device) -> Result<()> {
    let entries = updates.iter().map(|update| entry(update, device)).collect::<Result<Vec<_>>>()?;
    entries.chunks(MOST_UPDATES).try_for_each(|entries| launch(entries, device))
}

fn launch(entries: &[UpdateEntry], device: Device) -> Result<()> {
    let mut list = UpdateEntries {
        count: entries.len() as u64,
        entries: [UpdateEntry::zeroed(); MOST_UPDATES],
    };
    let mut chunks = 0;
    for (to, from) in list.entries.iter_mut().zip(entries) {
        *to = UpdateEntry { first_chunk: chunks, ..*from };
        chunks += crate::cuda::chunks(from.count, CHUNK);
    }
    let grid = (chunks, 1, 1);
    let launch =
        KernelLaunch { source: &source::ADAMW, kernel: "adamw", grid, block: THREADS, shared: 0 };
    // SAFETY: `UpdateEntries` has the layout of `ParamUpdates`; `entry` has checked each tensor's
    // dtype, device and size, and the caller that none overlap.
    unsafe { launch.run(device, &[Arg::Struct(bytemuck::cast_slice(bytemuck::bytes_of(&list)))]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_fits_a_kernel_s_parameters() {
        assert_eq!(size_of::<UpdateEntry>(), 64);
        assert!(size_of::<UpdateEntries>() <= 4096);
    }
}
