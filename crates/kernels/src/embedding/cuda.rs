//! The gradient of [`crate::embedding`] on a GPU.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Result, Tensor};

use crate::cuda::launch::{Arg, KernelLaunch};
use crate::cuda::{address, blocks, by_kind, check, check_float, is_aligned, source};

const OP: &str = "gradient of lookups";

/// As in `embedding.cu`.
const THREADS: u32 = 128;
const CHUNK: i64 = 32;

/// The gradient of a table of `entries`, dense, from that of what `ids` looked up; `padding` gets
/// none.
pub(crate) fn backward(
    grad: &Tensor,
    ids: &Tensor,
    entries: i64,
    padding: Option<i64>,
) -> Result<Tensor> {
    check_float(grad, "a gradient of lookups")?;
    check(ids, Kind::Int64, grad.device(), "what was looked up")?;
    let (count, device) = (ids.numel() as i64, grad.device());
    let features = grad.size().last().copied().unwrap_or(0);
    let out = Tensor::f_zeros([entries, features], (grad.kind(), device)).during(OP)?;
    let (ids, positions) = ids.f_view(-1).during(OP)?.f_sort_stable(true, 0, false).during(OP)?;
    let chunks = blocks(count, CHUNK);
    let parts = [2 * i64::from(chunks), features];
    let parts = Tensor::f_empty(parts, (Kind::Float, device)).during(OP)?;
    let at = [
        address(grad),
        address(&ids),
        address(&positions),
        address(&out),
        address(&parts),
        count as u64,
        features as u64,
        padding.unwrap_or(-1) as u64,
    ];
    let is_wide = features % 8 == 0 && is_aligned(grad);
    let columns = i64::from(THREADS) * if is_wide { 8 } else { 1 };
    let grid = (chunks, blocks(features, columns), 1);
    let kind = grad.kind();
    for kernel in [
        by_kind(kind, "embedding_float", "embedding_bf16"),
        by_kind(kind, "embedding_parts_float", "embedding_parts_bf16"),
    ] {
        let launch =
            KernelLaunch { source: &source::EMBEDDING, kernel, grid, block: THREADS, shared: 0 };
        // SAFETY: all are dense, on one device, of these dtypes and sizes; the forward pass
        // refused ids that are no entries.
        unsafe { launch.run(device, &[Arg::Struct(&at), is_wide.into()])? };
    }
    Ok(out)
}
