//! [`crate::sum_of_squares`] on a GPU, for many tensors by few launches.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};
use bytemuck::{Pod, Zeroable};

use crate::cuda::launch::{Arg, KernelLaunch};
use crate::cuda::{address, check, check_float, chunks, is_aligned, source};

const OP: &str = "sums of squares";

/// As in `sum_of_squares.cu`.
const THREADS: u32 = 256;
const CHUNK: u64 = THREADS as u64 * 8 * 4;
/// So many fit into the 4 KiB that every driver takes as a kernel's parameters.
const MOST_ENTRIES: usize = 128;

/// `Entry` of `sum_of_squares.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SquaresEntry {
    values: u64,
    count: u64,
    first_chunk: u32,
    flags: u32,
}

/// `Entries` of `sum_of_squares.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SquaresEntries {
    count: u32,
    chunks: u32,
    entries: [SquaresEntry; MOST_ENTRIES],
}

fn entry(tensor: &Tensor, device: Device) -> Result<SquaresEntry> {
    if !tensor.defined() {
        return Ok(SquaresEntry::zeroed());
    }
    check_float(tensor, "a gradient")?;
    check(tensor, tensor.kind(), device, "a gradient")?;
    let (is_bf16, aligned) = (tensor.kind() == Kind::BFloat16, is_aligned(tensor));
    Ok(SquaresEntry {
        values: address(tensor),
        count: tensor.numel() as u64,
        first_chunk: 0,
        flags: u32::from(is_bf16) + 2 * u32::from(aligned),
    })
}

/// See [`crate::sum_of_squares::sums_of_squares`].
pub(crate) fn sums(tensors: &[Tensor], device: Device) -> Result<Tensor> {
    let entries = tensors.iter().map(|x| entry(x, device)).collect::<Result<Vec<_>>>()?;
    let options = (Kind::Double, device);
    let out = Tensor::f_empty([tensors.len() as i64], options).during(OP)?;
    for (index, entries) in entries.chunks(MOST_ENTRIES).enumerate() {
        let (first, count) = ((index * MOST_ENTRIES) as i64, entries.len() as i64);
        launch(entries, &out.f_narrow(0, first, count).during(OP)?, device)?;
    }
    Ok(out)
}

fn launch(entries: &[SquaresEntry], out: &Tensor, device: Device) -> Result<()> {
    let mut list = SquaresEntries::zeroed();
    list.count = entries.len() as u32;
    for (to, from) in list.entries.iter_mut().zip(entries) {
        *to = SquaresEntry { first_chunk: list.chunks, ..*from };
        list.chunks += chunks(from.count, CHUNK);
    }
    let parts = Tensor::f_empty([i64::from(list.chunks)], (Kind::Double, device)).during(OP)?;
    let list_bytes: &[u64] = bytemuck::cast_slice(bytemuck::bytes_of(&list));
    let run = |kernel, grid, block, args: &[Arg<'_>]| {
        let launch =
            KernelLaunch { source: &source::SUM_OF_SQUARES, kernel, grid, block, shared: 0 };
        // SAFETY: `SquaresEntries` has the layout of the kernel's; `entry` has checked each
        // tensor's dtype and device; there is a part for each chunk and a result for each entry.
        unsafe { launch.run(device, args) }
    };
    let args = [Arg::Struct(list_bytes), (&parts).into()];
    run("squares", (list.chunks, 1, 1), THREADS, &args)?;
    let args = [Arg::Struct(list_bytes), (&parts).into(), out.into()];
    run("squares_of_tensors", (list.count, 1, 1), 32, &args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_fits_a_kernel_s_parameters() {
        assert_eq!(size_of::<SquaresEntry>(), 24);
        assert!(size_of::<SquaresEntries>() <= 4096 - 16);
    }
}
