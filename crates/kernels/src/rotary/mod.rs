//! Rotary positions (RoPE, arXiv 2104.09864) of heads, with the RMS norm of each head before them
//! (QK-norm, arXiv 2302.05442), in one pass each way.
//!
//! Of a head `x` of `e` features, whose position has cosines `c` and sines `s`, feature `i` pairs
//! with `j = i + e/2`:
//!
//! ```text
//! n = x r weight,  r = 1 / √(mean of x² + eps);  n = x without a norm
//! y_i = n_i c_i - n_j s_i        y_j = n_j c_j + n_i s_j
//!
//! dn_i = dy_i c_i + dy_j s_j     dn_j = dy_j c_j - dy_i s_i
//! g = dn · weight    dx = r (g - z · mean(g z)),  z = x r    dweight = Σ dn z
//! ```
//!
//! libtorch takes a norm, a copy with its halves swapped, two products and a sum, and a copy first
//! where the heads are part of a wider row. Here each number is read once and written once.
//!
//! Axes: `b` batch, `t` time, `h` heads, `e` features of a head.

mod cpu;
mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use half::bf16;

use crate::cpu::isa::Isa;

const OP: &str = "rotation of heads";

/// Cosines and sines of positions: `[rows, e]` in any shape, a row for each place in time, or for
/// each of each row of the batch.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// Cosines.
    pub cos: &'a Tensor,
    /// Sines.
    pub sin: &'a Tensor,
}

/// An RMS norm of each head.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorm<'a> {
    /// `[e]`
    pub weight: &'a Tensor,
    /// Added to the mean of squares.
    pub eps: f64,
}

/// Whether [`rotate`] takes `x`: FP32 or BF16, all of one dtype, on the CPU, or on a GPU with so
/// many features.
pub fn supports(x_bthe: &Tensor, angles: &Angles, norm: Option<&HeadNorm>) -> bool {
    let kind = x_bthe.kind();
    let others = [angles.cos, angles.sin].into_iter().chain(norm.map(|norm| norm.weight));
    let fits = match x_bthe.device() {
        Device::Cpu => true,
        Device::Cuda(_) => x_bthe.size().last().is_some_and(|&e| cuda::supports(e)),
        _ => false,
    };
    fits && matches!(kind, Kind::BFloat16 | Kind::Float)
        && others.into_iter().all(|other| other.kind() == kind)
}

/// The heads of `x`, normed if asked for, rotated by their positions: dense, of the same shape and
/// dtype. Rows of heads may lie in wider ones.
///
/// # Errors
/// Shapes, dtypes or devices that don't fit.
pub fn rotate(x_bthe: &Tensor, angles: &Angles, norm: Option<&HeadNorm>) -> Result<Tensor> {
    check(x_bthe, angles, norm)?;
    let function = Rotate { eps: norm.map(|norm| norm.eps as f32) };
    let mut inputs = vec![x_bthe, angles.cos, angles.sin];
    inputs.extend(norm.map(|norm| norm.weight));
    autograd::apply_one(function, &inputs)
}

fn check(x: &Tensor, angles: &Angles, norm: Option<&HeadNorm>) -> Result<()> {
    let shape = |tensor, found: &Tensor, expected: String| {
        Err(Error::Shape { op: OP, tensor, found: found.size(), expected })
    };
    let [b, t, _, e] = x.size()[..] else {
        return shape("input", x, "[batch, time, heads, features]".into());
    };
    if e == 0 || e % 2 != 0 {
        return shape("input", x, "an even number of features".into());
    }
    if !supports(x, angles, norm) {
        return Err(Error::Unsupported {
            what: format!("{OP} of {:?}", x.kind()),
            reason: "it takes FP32 or BF16, the same for all inputs, and on a GPU an even number \
                     of eights up to 512"
                .into(),
        });
    }
    let (size, count) = (angles.cos.size(), angles.cos.numel() as i64);
    if size.last() != Some(&e) || (count != t * e && count != b * t * e) {
        return shape("cosines", angles.cos, format!("[{t}, {e}] or [{b}, {t}, {e}]"));
    }
    if angles.sin.size() != size {
        return shape("sines", angles.sin, format!("{size:?}, as the cosines are"));
    }
    match norm {
        Some(norm) if norm.weight.size() != [e] => shape("weight", norm.weight, format!("[{e}]")),
        _ => Ok(()),
    }
}

/// Inputs: heads, cosines, sines, and the norm's weight if there is one.
struct Rotate {
    /// Of the norm.
    eps: Option<f32>,
}

impl Function for Rotate {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        let x = dense_heads(inputs[0]);
        let rest: Vec<Tensor> = inputs[1..].iter().map(|input| input.contiguous()).collect();
        let isa = Isa::fastest();
        let y = match (x.device(), x.kind()) {
            (Device::Cpu, Kind::BFloat16) => cpu::forward::<bf16>(isa, &x, &rest, self.eps)?,
            (Device::Cpu, _) => cpu::forward::<f32>(isa, &x, &rest, self.eps)?,
            _ => cuda::forward(&x, &rest, self.eps)?,
        };
        rest.iter().for_each(|tensor| ctx.save(tensor));
        if self.eps.is_some() {
            ctx.save(&x);
        }
        Ok(vec![y])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let saved = ctx.saved();
        let Some(grad) = &grads[0] else { return Ok(Vec::new()) };
        let grad = dense_heads(grad);
        let isa = Isa::fastest();
        let (x_grad, weight_grad) = match (grad.device(), grad.kind()) {
            (Device::Cpu, Kind::BFloat16) => cpu::backward::<bf16>(isa, &grad, saved, self.eps)?,
            (Device::Cpu, _) => cpu::backward::<f32>(isa, &grad, saved, self.eps)?,
            _ => cuda::backward(&grad, saved, self.eps)?,
        };
        Ok([Some(x_grad), None, None].into_iter().chain(weight_grad.map(Some)).collect())
    }
}

/// Heads of which each is dense; a copy if they were not.
fn dense_heads(x: &Tensor) -> Tensor {
    match x.stride().last() {
        Some(1) => x.shallow_clone(),
        _ => x.contiguous(),
    }
}
