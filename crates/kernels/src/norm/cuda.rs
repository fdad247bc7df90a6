//! [`crate::norm`] on a GPU.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Result, Tensor};

use crate::cuda::launch::{Arg, KernelLaunch};
use crate::cuda::{address, blocks, by_kind, check, check_int, column_sums, is_aligned, source};
use crate::norm::{InputGrads, NormKind, NormOutputs, OutputGrads};

const OP: &str = "norm";

/// As in `norm.cu`.
const ROWS: u32 = 8;
const MOST_WARPS: u32 = 4;
/// Bytes of shared memory that a block can have on every GPU from Ampere on.
const MOST_SHARED: usize = 96 << 10;
/// Blocks of the backward pass, at most: as many rows of sums are written and read. Four for each
/// part of an H100 that runs blocks.
const MOST_BLOCKS: u32 = 132 * 4;

/// The most features that the backward pass has room for.
pub(crate) const MOST_FEATURES: i64 = (MOST_SHARED / (2 * size_of::<f32>())) as i64;

/// The number of a kind in `norm.cu`.
fn number(norm_kind: NormKind) -> i32 {
    match norm_kind {
        NormKind::Layer => 0,
        NormKind::Rms => 1,
    }
}

/// The rows and features of what is normed.
fn shape(x: &Tensor) -> Result<(i64, i64)> {
    let features = x.size().last().copied().unwrap_or(0);
    check_int(features as usize, "features of a norm")?;
    Ok((if features == 0 { 0 } else { x.numel() as i64 / features }, features))
}

/// Checks that all are dense, like `x`, and says whether eight values can be accessed at once.
fn check_all(x: &Tensor, others: &[Option<&Tensor>]) -> Result<bool> {
    crate::cuda::check_float(x, "a norm's input")?;
    let mut is_wide = shape(x)?.1 % 8 == 0 && is_aligned(x);
    for other in others.iter().flatten() {
        check(other, x.kind(), x.device(), "a norm's tensor")?;
        is_wide &= is_aligned(other);
    }
    Ok(is_wide)
}

/// The norm of `x`, or of `x + y`. All are dense and of one dtype; `weight` and `bias` have as
/// many values as a row of `x`, `y` has the shape of `x`.
pub(crate) fn forward(
    norm_kind: NormKind,
    eps: f32,
    (weight, bias): (&Tensor, Option<&Tensor>),
    x: &Tensor,
    y: Option<&Tensor>,
) -> Result<NormOutputs> {
    let is_wide = check_all(x, &[Some(weight), bias, y])?;
    let (rows, features) = shape(x)?;
    let found = NormOutputs::empty(x, y.is_some(), rows)?;
    let at = [
        Some(x),
        y,
        Some(weight),
        bias,
        found.sum.as_ref(),
        Some(&found.normed),
        Some(&found.statistics),
    ]
    .map(address);
    let kernel = by_kind(x.kind(), "norm_float", "norm_bf16");
    let grid = (blocks(rows, i64::from(ROWS)), 1, 1);
    let launch = KernelLaunch { source: &source::NORM, kernel, grid, block: ROWS * 32, shared: 0 };
    let args = [
        Arg::Struct(&at),
        number(norm_kind).into(),
        eps.into(),
        rows.into(),
        (features as i32).into(),
        is_wide.into(),
    ];
    // SAFETY: `check_all` saw every input, the caller their shapes; results are made like them.
    unsafe { launch.run(x.device(), &args)? };
    Ok(found)
}

/// The gradients of what was normalised, of the weight and, if there is one, of the bias. Without
/// one, its gradient is empty.
pub(crate) fn backward(
    norm_kind: NormKind,
    is_biased: bool,
    weight: &Tensor,
    sum: &Tensor,
    statistics: &Tensor,
    of: &OutputGrads,
) -> Result<InputGrads> {
    let output_grads = of.checked(sum)?;
    let is_wide = check_all(sum, &output_grads)? & check_all(weight, &[])?;
    let (rows, features) = shape(sum)?;
    if features > MOST_FEATURES {
        return Err(crate::cuda::too_large("features of a norm", features));
    }
    let out = sum.f_empty_like().during(OP)?;
    let columns = if is_biased { 2 * features } else { features };
    let room = columns as usize * size_of::<f32>();
    let warps = [MOST_WARPS, 2, 1].into_iter().find(|&warps| room * warps as usize <= MOST_SHARED);
    let warps = warps.unwrap_or(1);
    let count = blocks(rows, i64::from(warps)).min(MOST_BLOCKS);
    let parts = Tensor::f_empty([i64::from(count), columns], (Kind::Float, sum.device()));
    let parts = parts.during(OP)?;
    let [normed, twin, sum_grad] = output_grads;
    let at = [
        Some(weight),
        Some(sum),
        Some(statistics),
        normed,
        twin,
        sum_grad,
        Some(&out),
        Some(&parts),
    ]
    .map(address);
    let launch = KernelLaunch {
        source: &source::NORM,
        kernel: by_kind(sum.kind(), "norm_backward_float", "norm_backward_bf16"),
        grid: (count, 1, 1),
        block: warps * 32,
        shared: warps * room as u32,
    };
    let args = [
        Arg::Struct(&at),
        number(norm_kind).into(),
        rows.into(),
        (features as i32).into(),
        is_biased.into(),
        (warps as i32).into(),
        is_wide.into(),
    ];
    // SAFETY: all are dense, of one dtype and device, and of shapes that were checked; the forward
    // pass made `statistics`.
    unsafe { launch.run(sum.device(), &args)? };
    let sums = column_sums::sum(&parts, sum.kind())?;
    let weight = sums.f_narrow(0, 0, features).during(OP)?;
    let bias = sums.f_narrow(0, features, columns - features).during(OP)?;
    Ok(InputGrads { sum: out, weight, bias })
}
