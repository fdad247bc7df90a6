//! [`crate::activation`] on a GPU.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Error, Result, Tensor};

use crate::activation::Activation;
use crate::cuda::launch::{Arg, KernelLaunch};
use crate::cuda::{blocks, by_kind, check, check_float, is_aligned, source};

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
