//! Layer norm and RMS norm, of one tensor or of the sum of two, in one pass each way.
//!
//! With `s = x + y` of a row of `d` features (or `s = x`), its mean `m` (0 for an RMS norm), and
//! `r = 1 / √(mean of (s - m)² + eps)`:
//!
//! ```text
//! z = (s - m) r        n = z · weight + bias
//! g = dn · weight      ds = r (g - mean g - z · mean(g z)),  without mean g for an RMS norm
//! dweight = Σ dn z     dbias = Σ dn     dx = dy = ds
//! ```
//!
//! A model uses the result twice, or the sum as well: both are outputs of one function, which adds
//! the gradients of both itself. libtorch takes a pass for each addition.
//!
//! Sources: arXiv 1607.06450 (layer norm), 1910.07467 (RMS norm).

mod cpu;
mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::policy::Op;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use half::bf16;
use serde::{Deserialize, Serialize};

use crate::cpu::isa::Isa;

const OP: &str = "norm";

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// `(x - mean) / √(variance + eps) · weight + bias`. Source: arXiv 1607.06450.
    Layer,
    /// `x / √(mean of x² + eps) · weight`. Source: arXiv 1910.07467.
    Rms,
}

/// A norm over the last axis, with statistics in FP32.
#[derive(Debug, Clone, Copy)]
pub struct NormArgs<'a> {
    /// Which.
    pub norm_kind: NormKind,
    /// `[features]`
    pub weight: &'a Tensor,
    /// `[features]`
    pub bias: Option<&'a Tensor>,
    /// Added to the mean of squares.
    pub eps: f64,
}

/// Whether the functions of this module take `x`: FP32 or BF16, with weights of the same dtype, on
/// the CPU, or on a GPU that has room for the row.
pub fn supports(norm: &NormArgs, x: &Tensor) -> bool {
    let has_room = match x.device() {
        Device::Cpu => true,
        Device::Cuda(_) => norm.weight.numel() as i64 <= cuda::MOST_FEATURES,
        _ => false,
    };
    has_room && matches!(x.kind(), Kind::BFloat16 | Kind::Float) && norm.weight.kind() == x.kind()
}

/// What a norm is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FusedWith {
    /// Nothing.
    Nothing,
    /// A sum, before or after it, and the sum of two gradients.
    Sum,
}

impl NormKind {
    /// The name under which a policy knows it.
    pub fn op(self, fused_with: FusedWith) -> Op {
        match (self, fused_with) {
            (Self::Layer, FusedWith::Nothing) => Op::LayerNorm,
            (Self::Layer, FusedWith::Sum) => Op::SumLayerNorm,
            (Self::Rms, FusedWith::Nothing) => Op::RmsNorm,
            (Self::Rms, FusedWith::Sum) => Op::SumRmsNorm,
        }
    }
}

/// The norm of `x`, `[.., features]`; shape and dtype stay.
///
/// # Errors
/// Shapes, dtypes or devices that don't fit.
pub fn normalize(norm: &NormArgs, x: &Tensor) -> Result<Tensor> {
    let [normed] = apply(norm, x, None, SecondOutput::None)?;
    Ok(normed)
}

/// The norm of `x + y`, twice, for two uses: their gradients are added without a pass of their
/// own. The two share memory.
///
/// # Errors
/// As [`normalize`]; `x` and `y` of different shapes.
pub fn normalize_sum(norm: &NormArgs, x: &Tensor, y: &Tensor) -> Result<[Tensor; 2]> {
    apply(norm, x, Some(y), SecondOutput::Twin)
}

/// The norm of `x + y`, and `x + y` itself; of `x` and `x` itself without `y`.
///
/// # Errors
/// As [`normalize_sum`].
pub fn add_and_normalize(norm: &NormArgs, x: &Tensor, y: Option<&Tensor>) -> Result<[Tensor; 2]> {
    apply(norm, x, y, SecondOutput::Sum)
}

fn apply<const OUTPUTS: usize>(
    norm: &NormArgs,
    x: &Tensor,
    y: Option<&Tensor>,
    second: SecondOutput,
) -> Result<[Tensor; OUTPUTS]> {
    check(norm, x, y)?;
    let function = Normalize {
        norm_kind: norm.norm_kind,
        eps: norm.eps as f32,
        biased: norm.bias.is_some(),
        summed: y.is_some(),
        second,
    };
    let inputs: Vec<&Tensor> =
        [Some(x), Some(norm.weight), norm.bias, y].into_iter().flatten().collect();
    let outputs = autograd::apply(function, &inputs)?;
    <[Tensor; OUTPUTS]>::try_from(outputs)
        .map_err(|_| Error::Torch { op: OP.into(), message: "no result".into() })
}

fn check(norm: &NormArgs, x: &Tensor, y: Option<&Tensor>) -> Result<()> {
    let features = x.size().last().copied().unwrap_or(0);
    let shape = |tensor, found: &Tensor, expected: String| {
        Err(Error::Shape { op: OP, tensor, found: found.size(), expected })
    };
    for (name, tensor) in [("weight", Some(norm.weight)), ("bias", norm.bias)] {
        let Some(tensor) = tensor else { continue };
        if tensor.size() != [features] || tensor.kind() != x.kind() {
            return shape(name, tensor, format!("[{features}] of {:?}", x.kind()));
        }
    }
    match y {
        Some(y) if y.size() != x.size() || y.kind() != x.kind() => {
            shape("second summand", y, format!("{:?} of {:?}", x.size(), x.kind()))
        }
        _ => Ok(()),
    }
}

/// What is returned beside the norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SecondOutput {
    None,
    /// The same again.
    Twin,
    /// What was normalised.
    Sum,
}

/// Inputs `x`, the weight, the bias if any, and `y` if any.
struct Normalize {
    norm_kind: NormKind,
    eps: f32,
    biased: bool,
    summed: bool,
    second: SecondOutput,
}

impl Function for Normalize {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        let (x, weight) = (inputs[0].contiguous(), inputs[1].contiguous());
        let bias = self.biased.then(|| inputs[2].contiguous());
        let y = self.summed.then(|| inputs[inputs.len() - 1].contiguous());
        let affine = (&weight, bias.as_ref());
        let (norm_kind, eps, isa) = (self.norm_kind, self.eps, Isa::fastest());
        let found = match (x.device(), x.kind()) {
            (Device::Cpu, Kind::BFloat16) => {
                cpu::forward::<bf16>(isa, norm_kind, eps, affine, &x, y.as_ref())?
            }
            (Device::Cpu, _) => cpu::forward::<f32>(isa, norm_kind, eps, affine, &x, y.as_ref())?,
            _ => cuda::forward(norm_kind, eps, affine, &x, y.as_ref())?,
        };
        let sum = found.sum.unwrap_or(x);
        [&sum, &found.statistics, inputs[1]].into_iter().for_each(|tensor| ctx.save(tensor));
        let second = match self.second {
            SecondOutput::None => None,
            SecondOutput::Twin => Some(found.normed.shallow_clone()),
            SecondOutput::Sum => Some(sum),
        };
        Ok([found.normed].into_iter().chain(second).collect())
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let [sum, statistics, weight] = ctx.saved() else { return Ok(Vec::new()) };
        let dense = |grad: &Option<Tensor>| grad.as_ref().map(Tensor::contiguous);
        let (first, second) = (dense(&grads[0]), grads.get(1).and_then(dense));
        let (normed_grad, twin, sum_grad) = match (self.second, first) {
            (SecondOutput::Sum, first) => (first, None, second),
            // The one that is used, where only one is.
            (_, None) => (second, None, None),
            (_, first) => (first, second, None),
        };
        let Some(normed_grad) = normed_grad else {
            return Ok(self.of_inputs(sum_grad, None, None));
        };
        let of = OutputGrads { normed: normed_grad, twin, sum: sum_grad };
        let (weight, norm_kind, isa) = (&weight.contiguous(), self.norm_kind, Isa::fastest());
        let found = match (sum.device(), sum.kind()) {
            (Device::Cpu, Kind::BFloat16) => {
                cpu::backward::<bf16>(isa, norm_kind, weight, sum, statistics, &of)?
            }
            (Device::Cpu, _) => cpu::backward::<f32>(isa, norm_kind, weight, sum, statistics, &of)?,
            _ => cuda::backward(norm_kind, self.biased, weight, sum, statistics, &of)?,
        };
        Ok(self.of_inputs(Some(found.sum), Some(found.weight), Some(found.bias)))
    }
}

impl Normalize {
    /// The gradients in the order of the inputs, one for both summands.
    fn of_inputs(
        &self,
        sum: Option<Tensor>,
        weight: Option<Tensor>,
        bias: Option<Tensor>,
    ) -> Vec<Option<Tensor>> {
        let again = self.summed.then(|| sum.as_ref().map(Tensor::shallow_clone));
        let bias = self.biased.then_some(bias);
        [sum, weight].into_iter().chain(bias).chain(again).collect()
    }
}

/// What the forward pass makes.
pub(crate) struct NormOutputs {
    pub(crate) normed: Tensor,
    /// Of two tensors.
    pub(crate) sum: Option<Tensor>,
    /// `[rows, 2]` of FP32: mean and inverse deviation.
    pub(crate) statistics: Tensor,
}

impl NormOutputs {
    /// Room for the results of `rows` rows of `x`, or of a sum of two such tensors.
    pub(crate) fn empty(x: &Tensor, is_sum: bool, rows: i64) -> Result<Self> {
        Ok(Self {
            normed: x.f_empty_like().during(OP)?,
            sum: is_sum.then(|| x.f_empty_like()).transpose().during(OP)?,
            statistics: Tensor::f_empty([rows, 2], (Kind::Float, x.device())).during(OP)?,
        })
    }
}

/// Gradients of the forward pass's outputs, dense.
pub(crate) struct OutputGrads {
    pub(crate) normed: Tensor,
    /// Of the norm in its second use, to be added to the first.
    pub(crate) twin: Option<Tensor>,
    /// Of what was normalised.
    pub(crate) sum: Option<Tensor>,
}

impl OutputGrads {
    /// Those of the norm, of its second use and of the sum, each of the shape of `sum`.
    pub(crate) fn checked(&self, sum: &Tensor) -> Result<[Option<&Tensor>; 3]> {
        let all = [Some(&self.normed), self.twin.as_ref(), self.sum.as_ref()];
        match all.iter().flatten().find(|of| of.size() != sum.size()) {
            None => Ok(all),
            Some(wrong) => {
                let (found, expected) = (wrong.size(), format!("{:?}", sum.size()));
                Err(Error::Shape { op: OP, tensor: "gradient", found, expected })
            }
        }
    }
}

/// Gradients of the forward pass's inputs.
pub(crate) struct InputGrads {
    pub(crate) sum: Tensor,
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}
