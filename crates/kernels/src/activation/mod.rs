//! Activation functions and gates, forward and backward in one pass each.
//!
//! With activation `f` of `x`, alone or as the gate of `u`:
//!
//! ```text
//! y = f(x)        y = f(x) · u
//! dx = dy f'(x)   dx = dy u f'(x)   du = dy f(x)
//! ```
//!
//! libtorch's `tanh` form of GELU is nearly ten times slower than its `erf` form on the CPU, and
//! a gate takes it two passes forward and four backward.

mod biased;
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

pub use biased::activate_biased;

/// The function `f`, in configurations by its name in Hugging Face's `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Φ(x)`, exact. Source: arXiv 1606.08415.
    Gelu,
    /// The same with `Φ(x) = (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`, as GPT-2 and T5 v1.1 have
    /// it.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh")]
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`. Source: arXiv 2109.08668.
    #[serde(rename = "relu2")]
    ReluSquared,
    /// `x σ(x)`, also called swish. Source: arXiv 1702.03118.
    #[serde(alias = "swish")]
    Silu,
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Gelu, Self::GeluTanh, Self::Relu, Self::ReluSquared, Self::Silu];

    /// The name under which a policy knows it, with or without what it gates.
    pub fn op(self, is_gate: bool) -> Op {
        match (self, is_gate) {
            (Self::Gelu, false) => Op::Gelu,
            (Self::Gelu, true) => Op::GatedGelu,
            (Self::GeluTanh, false) => Op::GeluTanh,
            (Self::GeluTanh, true) => Op::GatedGeluTanh,
            (Self::Relu | Self::ReluSquared, false) => Op::Relu,
            (Self::Relu | Self::ReluSquared, true) => Op::GatedRelu,
            (Self::Silu, false) => Op::Silu,
            (Self::Silu, true) => Op::GatedSilu,
        }
    }

    /// The one of this name in `config.json`.
    pub fn named(name: &str) -> Option<Self> {
        use serde::de::IntoDeserializer;
        let name: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
            name.into_deserializer();
        Self::deserialize(name).ok()
    }
}

/// Whether [`activate`] takes `x`: FP32 or BF16, on the CPU or a GPU.
pub fn supports(x: &Tensor) -> bool {
    matches!(x.device(), Device::Cpu | Device::Cuda(_))
        && matches!(x.kind(), Kind::BFloat16 | Kind::Float)
}

/// `f(x)`, or `f(x) · gated`; both of one shape and dtype, which stay.
///
/// # Errors
/// A tensor that it does not [support](supports), shapes or dtypes that differ.
pub fn activate(activation: Activation, x: &Tensor, gated: Option<&Tensor>) -> Result<Tensor> {
    if let Some(gated) = gated.filter(|u| u.size() != x.size() || u.kind() != x.kind()) {
        return Err(Error::Shape {
            op: "activation",
            tensor: "what is gated",
            found: gated.size(),
            expected: format!("{:?} of {:?}", x.size(), x.kind()),
        });
    }
    let mut inputs = vec![x];
    inputs.extend(gated);
    autograd::apply_one(Activate { activation }, &inputs)
}

struct Activate {
    activation: Activation,
}

impl Function for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.contiguous()).collect();
        if inputs[0].device() != Device::Cpu {
            inputs.iter().for_each(|input| ctx.save(input));
            return Ok(vec![cuda::forward(self.activation, &inputs[0], inputs.get(1))?]);
        }
        let mut y = inputs[0].f_empty_like().during(self.name())?;
        match y.kind() {
            Kind::BFloat16 => cpu::forward_all::<bf16>(self.activation, &inputs, &mut y)?,
            _ => cpu::forward_all::<f32>(self.activation, &inputs, &mut y)?,
        }
        inputs.iter().for_each(|input| ctx.save(input));
        Ok(vec![y])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let inputs = ctx.saved();
        let Some(grad) = &grads[0] else { return Ok(inputs.iter().map(|_| None).collect()) };
        let grad = grad.contiguous();
        if grad.device() != Device::Cpu {
            let (dx, du) = cuda::backward(self.activation, inputs, &grad)?;
            return Ok([Some(dx), du].into_iter().take(inputs.len()).collect());
        }
        let empty = |input: &Tensor| input.f_empty_like().during(self.name());
        let mut results: Vec<Tensor> = inputs.iter().map(empty).collect::<Result<_>>()?;
        match grad.kind() {
            Kind::BFloat16 => {
                cpu::backward_all::<bf16>(self.activation, inputs, &grad, &mut results)?
            }
            _ => cpu::backward_all::<f32>(self.activation, inputs, &grad, &mut results)?,
        }
        Ok(results.into_iter().map(Some).collect())
    }
}
