//! [`crate::rotary`] on a GPU.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Error, Kind, Result, Tensor};

use crate::cuda::launch::{Arg, KernelLaunch};
use crate::cuda::{address, blocks, by_kind, check, column_sums, is_aligned, source};

const OP: &str = "rotation of heads";

/// As in `rotary.cu`.
const THREADS: u32 = 256;
const MOST_FEATURES: i64 = 512;
/// Features of a half that a thread takes.
const STEP: i64 = 8;
/// Blocks of the backward pass through a norm, at most: as many rows of sums are written and read.
const MOST_BLOCKS: u32 = 132 * 8;

/// Whether heads of so many features are taken: halves of whole accesses, by threads of one warp.
pub(crate) fn supports(features: i64) -> bool {
    features % (2 * STEP) == 0 && (1..=MOST_FEATURES).contains(&features)
}

/// Heads of which each begins at a 16-byte boundary; a copy if they did not.
fn aligned_heads(x: &Tensor) -> Result<Tensor> {
    let stride = x.stride();
    let is_dense = stride.last() == Some(&1);
    if is_dense && is_aligned(x) && stride.iter().rev().skip(1).all(|stride| stride % STEP == 0) {
        return Ok(x.shallow_clone());
    }
    let mut copy = Tensor::f_empty(x.size(), (x.kind(), x.device())).during(OP)?;
    copy.f_copy_(x).during(OP)?;
    Ok(copy)
}

/// `Heads` of `rotary.cu`: `[b, t, h, e]`.
fn heads(x: &Tensor) -> [u64; 4] {
    let stride = x.stride();
    [address(x), stride[0] as u64, stride[1] as u64, stride[2] as u64]
}

/// `Shape` of `rotary.cu`; `tensors` are cosines, sines, and the norm's weight if there is one.
fn shape(x: &Tensor, tensors: &[Tensor], is_normed: bool) -> Result<[u64; 9]> {
    let [b, t, h, e] = x.size()[..] else {
        let expected = "[batch, time, heads, features]".to_owned();
        return Err(Error::Shape { op: OP, tensor: "input", found: x.size(), expected });
    };
    let used = &tensors[..if is_normed { 3 } else { 2 }];
    for tensor in used {
        check(tensor, x.kind(), x.device(), "angles or a norm's weight")?;
        if !is_aligned(tensor) {
            return Err(Error::Unsupported {
                what: "angles or a norm's weight that are part of a tensor".into(),
                reason: "they do not begin at a 16-byte boundary".into(),
            });
        }
    }
    let [cos, sin, weight] = [0, 1, 2].map(|index| address(used.get(index)));
    let group = (e / 2 / STEP) as u64;
    let sizes = [b * t * h, t, h, e, tensors[0].numel() as i64 / e].map(|size| size as u64);
    let [count, time, heads, features, angles] = sizes;
    let group = group.next_power_of_two();
    Ok([cos, sin, weight, count, time, heads, features, angles, group])
}

/// How many heads a block takes at a time.
fn heads_of_block(shape: &[u64; 9]) -> i64 {
    i64::from(THREADS) / shape[8] as i64
}

/// See [`crate::rotary::rotate`]; `tensors` are cosines, sines and, where `eps` is given, a norm's
/// weight.
pub(crate) fn forward(x: &Tensor, tensors: &[Tensor], eps: Option<f32>) -> Result<Tensor> {
    let x = &aligned_heads(x)?;
    let y = Tensor::f_empty(x.size(), (x.kind(), x.device())).during(OP)?;
    let (heads, shape) = (heads(x), shape(x, tensors, eps.is_some())?);
    let args = [Arg::Struct(&heads), Arg::Struct(&shape), eps.unwrap_or(0.0).into(), (&y).into()];
    let kernels = ["rotary_float", "rotary_bf16"];
    launch(x, kernels, blocks(shape[3] as i64, heads_of_block(&shape)), &args)?;
    Ok(y)
}

/// The gradients of the heads and of the norm's weight; `saved` are cosines, sines, and, where
/// there is a norm, its weight and the heads.
pub(crate) fn backward(
    grad: &Tensor,
    saved: &[Tensor],
    eps: Option<f32>,
) -> Result<(Tensor, Option<Tensor>)> {
    let grad = &aligned_heads(grad)?;
    let x_grad = Tensor::f_empty(grad.size(), (grad.kind(), grad.device())).during(OP)?;
    let (y_grad, shape) = (heads(grad), shape(grad, saved, eps.is_some())?);
    let count = blocks(shape[3] as i64, heads_of_block(&shape));
    let Some(eps) = eps else {
        let args = [Arg::Struct(&y_grad), Arg::Struct(&shape), (&x_grad).into()];
        launch(grad, ["rotary_backward_float", "rotary_backward_bf16"], count, &args)?;
        return Ok((x_grad, None));
    };
    let x = &aligned_heads(&saved[3])?;
    if x.size() != grad.size() || x.kind() != grad.kind() || x.device() != grad.device() {
        let (found, expected) = (grad.size(), format!("{:?} of {:?}", x.size(), x.kind()));
        return Err(Error::Shape { op: OP, tensor: "gradient", found, expected });
    }
    let count = count.min(MOST_BLOCKS);
    let parts = [i64::from(count), shape[6] as i64];
    let parts = Tensor::f_empty(parts, (Kind::Float, grad.device())).during(OP)?;
    let x = heads(x);
    let args = [
        Arg::Struct(&y_grad),
        Arg::Struct(&x),
        Arg::Struct(&shape),
        eps.into(),
        (&x_grad).into(),
        (&parts).into(),
    ];
    let kernels = ["rotary_normed_backward_float", "rotary_normed_backward_bf16"];
    launch(grad, kernels, count, &args)?;
    Ok((x_grad, Some(column_sums::sum(&parts, grad.kind())?)))
}

fn launch(
    x: &Tensor,
    [float, bf16]: [&'static str; 2],
    count: u32,
    args: &[Arg<'_>],
) -> Result<()> {
    let kernel = by_kind(x.kind(), float, bf16);
    let grid = (count, 1, 1);
    let launch = KernelLaunch { source: &source::ROTARY, kernel, grid, block: THREADS, shared: 0 };
    // SAFETY: heads are of one dtype and device and each begins at a 16-byte boundary; `shape` saw
    // the rest, and the public functions their shapes; results are made like them.
    unsafe { launch.run(x.device(), args) }
}
