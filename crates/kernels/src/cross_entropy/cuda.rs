//! [`crate::cross_entropy`] of logits that are there on a GPU.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Result, Tensor};

use crate::cross_entropy::CrossEntropyOptions;
use crate::cuda::launch::KernelLaunch;
use crate::cuda::{by_kind, check, check_float, check_int, source};

const OP: &str = "cross-entropy";

/// As in `cross_entropy.cu`.
const THREADS: u32 = 256;

/// The part of the loss of `logits`, `[n, v]`, a scalar, divided by `count`. If `wanted`,
/// the gradient of the loss takes the place of the logits. A label that is no class makes the
/// loss NaN.
pub(crate) fn softmax_cross_entropy_in_place(
    logits: &mut Tensor,
    labels: &Tensor,
    count: &Tensor,
    options: &CrossEntropyOptions,
    wanted: bool,
) -> Result<Tensor> {
    let device = logits.device();
    let (rows, classes) = logits.size2().during(OP)?;
    // Rows may be longer than their classes.
    let length = logits.stride().first().copied().unwrap_or(classes).max(classes);
    let is_float = matches!(logits.kind(), Kind::BFloat16 | Kind::Float);
    if !is_float || logits.stride() != [length, 1] {
        check_float(logits, "logits")?;
    }
    check_int(rows.max(length) as usize, "rows or classes")?;
    let labels = labels.f_contiguous().during(OP)?;
    check(&labels, Kind::Int64, device, "labels")?;
    check(count, Kind::Int64, device, "a count of rows")?;
    let losses = Tensor::f_empty([rows], (Kind::Float, device)).during(OP)?;
    let kernel = by_kind(logits.kind(), "cross_entropy_float", "cross_entropy_bf16");
    let grid = (rows as u32, 1, 1);
    let launch =
        KernelLaunch { source: &source::CROSS_ENTROPY, kernel, grid, block: THREADS, shared: 0 };
    let args = [
        (&*logits).into(),
        (&labels).into(),
        count.into(),
        (classes as i32).into(),
        (length as i32).into(),
        options.ignored.into(),
        (options.label_smoothing as f32).into(),
        (options.z_loss as f32).into(),
        // 0 is no cap.
        (options.soft_cap.unwrap_or(0.0) as f32).into(),
        wanted.into(),
        (&losses).into(),
    ];
    // SAFETY: all are dense but for rows of logits, `length` apart, of these dtypes and on one
    // device; `labels` and `losses` have one value a row, `count` one.
    unsafe { launch.run(device, &args)? };
    losses.f_sum(Kind::Float).during(OP)?.f_div(count).during(OP)
}
