//! [`crate::adamw::step`] on a GPU.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::{Device, Kind, Result, Tensor};
use bytemuck::{Pod, Zeroable};

use super::launch::{Arg, Launch};
use super::{address, check, is_aligned, source};
use crate::adamw::Scalars;
use crate::weight::{Weight, same_count};

/// As in `adamw.cu`.
const THREADS: u32 = 256;
const CHUNK: u64 = THREADS as u64 * 8 * 4;
/// So many fit into the 4 KiB that every driver takes as a kernel's parameters.
const MOST_JOBS: usize = 32;

/// `Job` of `adamw.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
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

/// `Jobs` of `adamw.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entries {
    count: u64,
    entries: [Entry; MOST_JOBS],
}

/// The form's number in `weight.cuh`, the working weight and what lies beside it, all checked.
pub(super) fn parts<'a>(
    op: &'static str,
    weight: &'a Weight<'_>,
    count: usize,
    device: Device,
) -> Result<(u32, &'a Tensor, Option<&'a Tensor>)> {
    let check = |tensor: &Tensor, kind, what: &'static str| {
        check(tensor, kind, device, what)?;
        same_count(op, count, tensor.numel(), what)
    };
    match weight {
        Weight::Single(weight) => {
            check(weight, Kind::Float, "weight")?;
            Ok((0, weight, None))
        }
        Weight::Master { master, weight } => {
            check(master, Kind::Float, "master weight")?;
            check(weight, Kind::BFloat16, "weight")?;
            Ok((1, weight, Some(master)))
        }
        Weight::Split { weight, low } => {
            check(weight, Kind::BFloat16, "weight")?;
            check(low, Kind::Int16, "low bits")?;
            Ok((2, weight, Some(low)))
        }
    }
}

fn entry(job: &crate::adamw::Job<'_>, device: Device) -> Result<Entry> {
    let op = "AdamW";
    super::check_float(job.grad, "gradient")?;
    check(job.grad, job.grad.kind(), device, "gradient")?;
    let count = job.grad.numel();
    for (moment, what) in [(&*job.moment1, "first moment"), (&*job.moment2, "second moment")] {
        check(moment, Kind::Float, device, what)?;
        same_count(op, count, moment.numel(), what)?;
    }
    check(job.numbers, Kind::Float, device, "numbers of a step")?;
    same_count(op, Scalars::COUNT, job.numbers.numel(), "numbers of a step")?;
    let (form, weight, other) = parts(op, &job.weight, count, device)?;
    let tensors = [job.grad, &*job.moment1, &*job.moment2, weight];
    let aligned = tensors.into_iter().chain(other).all(is_aligned);
    let is_bf16 = job.grad.kind() == Kind::BFloat16;
    let flag = |bit: u32, on: bool| if on { bit } else { 0 };
    Ok(Entry {
        grad: address(job.grad),
        moment1: address(&*job.moment1),
        moment2: address(&*job.moment2),
        weight: address(weight),
        other: address(other),
        count: count as u64,
        numbers: address(job.numbers),
        first_chunk: 0,
        flags: form + flag(4, is_bf16) + flag(8, job.cautious) + flag(16, aligned),
    })
}

/// One step for all `jobs`, which are on `device` and share no memory.
pub(crate) fn step(jobs: &[crate::adamw::Job<'_>], device: Device) -> Result<()> {
    let entries = jobs.iter().map(|job| entry(job, device)).collect::<Result<Vec<_>>>()?;
    entries.chunks(MOST_JOBS).try_for_each(|entries| launch(entries, device))
}

fn launch(entries: &[Entry], device: Device) -> Result<()> {
    let mut list = Entries { count: entries.len() as u64, entries: [Entry::zeroed(); MOST_JOBS] };
    let mut chunks = 0;
    for (to, from) in list.entries.iter_mut().zip(entries) {
        *to = Entry { first_chunk: chunks, ..*from };
        chunks += super::chunks(from.count, CHUNK);
    }
    let grid = (chunks, 1, 1);
    let launch =
        Launch { source: &source::ADAMW, kernel: "adamw", grid, block: THREADS, shared: 0 };
    // SAFETY: `Entries` has the layout of `Jobs`; `entry` has checked each tensor's dtype, device
    // and size, and the caller that none overlap.
    unsafe { launch.run(device, &[Arg::Struct(bytemuck::cast_slice(bytemuck::bytes_of(&list)))]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_fits_a_kernel_s_parameters() {
        assert_eq!(size_of::<Entry>(), 64);
        assert!(size_of::<Entries>() <= 4096);
    }
}
