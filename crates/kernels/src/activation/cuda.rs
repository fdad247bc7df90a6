//! [`crate::activation`] on a GPU.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Error, Kind, Result, Tensor};

use crate::activation::Activation;
use crate::cuda::launch::{Arg, KernelLaunch};
use crate::cuda::{
    blocks, by_kind, check, check_float, check_int, column_sums, is_aligned, source,
};

const OP: &str = "activation";

/// As in `activation.cu`.
const THREADS: u32 = 256;

/// The number of a activation in `activation.cu`.
fn number(activation: Activation) -> i32 {
    match activation {
        Activation::Gelu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
        Activation::ReluSquared => 3,
        Activation::Silu => 4,
    }
}

/// `f(x)`, or `f(x) · gated`; dense, FP32 or BF16, of one shape and dtype.
pub(crate) fn forward(
    activation: Activation,
    x: &Tensor,
    gated: Option<&Tensor>,
) -> Result<Tensor> {
    check_all(x, gated)?;
    let y = x.f_empty_like().during(OP)?;
    let args =
        [number(activation).into(), x.into(), gated.into(), (&y).into(), (x.numel() as i64).into()];
    launch(x, ["activation_float", "activation_bf16"], &args)?;
    Ok(y)
}

/// The gradients of [`forward`]'s `inputs`, from that of its result.
pub(crate) fn backward(
    activation: Activation,
    inputs: &[Tensor],
    dy: &Tensor,
) -> Result<(Tensor, Option<Tensor>)> {
    let (x, gated) = (&inputs[0], inputs.get(1));
    check_all(x, gated)?;
    check_all(x, Some(dy))?;
    let dx = x.f_empty_like().during(OP)?;
    let du = gated.map(|gated| gated.f_empty_like()).transpose().during(OP)?;
    let args = [
        number(activation).into(),
        x.into(),
        gated.into(),
        dy.into(),
        (&dx).into(),
        du.as_ref().into(),
        (x.numel() as i64).into(),
    ];
    launch(x, ["activation_backward_float", "activation_backward_bf16"], &args)?;
    Ok((dx, du))
}

/// Blocks that add up a bias' gradient, each leaving a row of sums: enough to fill a GPU.
const SUM_BLOCKS: i64 = 4 * 132;

/// `f(x + bias)`; dense, `[.., f]` and `[f]`, `f` a multiple of 8.
pub(crate) fn forward_biased(activation: Activation, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (_, cols) = check_biased(x, bias)?;
    let y = x.f_empty_like().during(OP)?;
    let count = x.numel() as i64;
    let args = [
        number(activation).into(),
        x.into(),
        bias.into(),
        (&y).into(),
        count.into(),
        (cols as i32).into(),
    ];
    launch(x, ["activation_biased_float", "activation_biased_bf16"], &args)?;
    Ok(y)
}

/// The gradients of `x` and of `bias` of [`forward_biased`], from that of its result.
pub(crate) fn backward_biased(
    activation: Activation,
    x: &Tensor,
    bias: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (rows, cols) = check_biased(x, bias)?;
    check_all(x, Some(dy))?;
    let dx = x.f_empty_like().during(OP)?;
    // A block has 32 lanes of eight columns, and a row for each of its warps.
    let across = blocks(cols, 256);
    let most = (SUM_BLOCKS / i64::from(across.max(1))).max(1);
    let down = i64::from(blocks(rows, 8)).clamp(1, most);
    let parts = Tensor::f_empty([down, cols], (Kind::Float, x.device())).during(OP)?;
    let args = [
        number(activation).into(),
        x.into(),
        bias.into(),
        dy.into(),
        (&dx).into(),
        (&parts).into(),
        (rows as i32).into(),
        (cols as i32).into(),
    ];
    let names = ["activation_biased_backward_float", "activation_biased_backward_bf16"];
    let kernel = by_kind(x.kind(), names[0], names[1]);
    let grid = (across, down as u32, 1);
    let launch =
        KernelLaunch { source: &source::ACTIVATION, kernel, grid, block: THREADS, shared: 0 };
    // SAFETY: `check_biased` and `check_all` saw every input; results are made here, of the sizes
    // that the kernel's comment tells.
    unsafe { launch.run(x.device(), &args)? };
    Ok((dx, column_sums::sum(&parts, x.kind())?))
}

/// Rows and columns of what has a bias.
fn check_biased(x: &Tensor, bias: &Tensor) -> Result<(i64, i64)> {
    check_all(x, None)?;
    check(bias, x.kind(), x.device(), "an activation's bias")?;
    let cols = bias.numel() as i64;
    let rows = x.numel() as i64 / cols.max(1);
    check_int(rows.max(cols) as usize, "rows or columns")?;
    let fits = cols > 0 && cols % 8 == 0 && x.size().last() == Some(&cols);
    if fits && is_aligned(x) && is_aligned(bias) {
        return Ok((rows, cols));
    }
    let expected = "as many values as columns, a multiple of 8, at a 16-byte boundary".into();
    Err(Error::Shape { op: OP, tensor: "bias", found: bias.size(), expected })
}

fn check_all(x: &Tensor, other: Option<&Tensor>) -> Result<()> {
    check_float(x, "an activation's input")?;
    let Some(other) = other else { return Ok(()) };
    check(other, x.kind(), x.device(), "an activation's input")?;
    if other.size() != x.size() {
        let (found, expected) = (other.size(), format!("{:?}", x.size()));
        return Err(Error::Shape { op: OP, tensor: "second input", found, expected });
    }
    if !is_aligned(x) || !is_aligned(other) {
        return Err(Error::Unsupported {
            what: "an activation of a part of a tensor".into(),
            reason: "it does not begin at a 16-byte boundary".into(),
        });
    }
    Ok(())
}

fn launch(x: &Tensor, [float, bf16]: [&'static str; 2], args: &[Arg<'_>]) -> Result<()> {
    let kernel = by_kind(x.kind(), float, bf16);
    let grid = (blocks(x.numel() as i64, i64::from(THREADS) * 8), 1, 1);
    let launch =
        KernelLaunch { source: &source::ACTIVATION, kernel, grid, block: THREADS, shared: 0 };
    // SAFETY: `check_all` saw every input; results are made like them.
    unsafe { launch.run(x.device(), args) }
}
