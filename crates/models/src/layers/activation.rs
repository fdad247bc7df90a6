//! Activation functions, by their names in `config.json`.

use bert4rs_kernels::activation as kernel;
use bert4rs_tensor_core::param::Kernels;
use bert4rs_tensor_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// An elementwise nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Φ(x)`, exact. Source: arXiv 1606.08415.
    Gelu,
    /// The same with `Φ` by `tanh`, as GPT-2 and T5 v1.1 have it.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
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
    /// Elementwise; shape and dtype stay.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x.gelu("none"),
            Self::GeluNew => x.gelu("tanh"),
            Self::Relu => x.relu(),
            Self::ReluSquared => x.relu().square(),
            Self::Silu => x.silu(),
        }
    }

    /// [`forward`](Self::forward) of `x`, times `gated` if there is one, with such kernels.
    pub fn apply(self, kernels: Kernels, x: &Tensor, gated: Option<&Tensor>) -> Result<Tensor> {
        let own = self.fused().filter(|&activation| {
            let fast = kernel::is_fast(activation, x.kind(), gated.is_some());
            kernels == Kernels::Fused && kernel::supports(x) && fast
        });
        match own {
            Some(activation) => kernel::activate(activation, x, gated),
            _ => {
                let y = self.forward(x);
                Ok(gated.map_or_else(|| y.shallow_clone(), |gated| &y * gated))
            }
        }
    }

    /// The kernel's name of it, if it has it.
    fn fused(self) -> Option<kernel::Activation> {
        match self {
            Self::Gelu => Some(kernel::Activation::Gelu),
            Self::GeluNew => Some(kernel::Activation::GeluTanh),
            Self::Silu => Some(kernel::Activation::Silu),
            Self::Relu | Self::ReluSquared => None,
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
