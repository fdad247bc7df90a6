//! Dtypes, chosen once and passed on: no autocast, no hidden casts.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::cpu::CpuFeatures;
use crate::param::Role;

/// How numbers are held while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// BF16 where the device multiplies it faster than FP32, else FP32.
    Auto,
    /// FP32 weights and activations.
    Fp32,
    /// BF16 weights and activations, beside FP32 master weights that the optimizer updates;
    /// FP32 statistics and losses.
    Bf16,
}

impl Precision {
    /// The same with `Auto` decided for `device`, and the reason to print.
    pub fn resolve(self, device: Device) -> (Self, &'static str) {
        match (self, device) {
            (Self::Auto, Device::Cuda(_)) => (Self::Bf16, "the GPU has BF16 matrix units"),
            (Self::Auto, _) => match CpuFeatures::detect() {
                CpuFeatures { amx_bf16: true, .. } => (Self::Bf16, "the CPU has AMX"),
                CpuFeatures { avx512_bf16: true, .. } => {
                    (Self::Bf16, "the CPU has AVX-512 BF16 products")
                }
                _ => (Self::Fp32, "the CPU has no BF16 products"),
            },
            (chosen, _) => (chosen, "as configured"),
        }
    }

    /// Dtype of weights and activations.
    ///
    /// # Panics
    /// On `Auto`: which dtype that is depends on the device, so [`resolve`](Self::resolve) first.
    pub fn compute_kind(self) -> Kind {
        match self {
            Self::Bf16 => Kind::BFloat16,
            Self::Fp32 => Kind::Float,
            Self::Auto => panic!("precision `auto` was not resolved for a device"),
        }
    }
}

/// Where the factor of an FP8 tensor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fp8Scaling {
    /// One factor a tensor, from its own largest magnitude: reads it twice.
    Tensor,
    /// One factor a tensor, from the largest magnitude of the last [`Fp8Scaling::HISTORY`] steps:
    /// reads it once. A model that goes on from a checkpoint starts its history anew.
    Delayed,
    /// One factor for each row along which a product sums: the most exact.
    Row,
}

impl Fp8Scaling {
    /// Steps that [`Fp8Scaling::Delayed`] looks back on. Source: Transformer Engine's default for
    /// large models is 1024; 16 follows faster and overflows no more often while a loss falls.
    pub const HISTORY: i64 = 16;
}

/// Which linear maps multiply in FP8, and how.
///
/// Hidden matrices do, and heads where asked for; embeddings and norms never do. Weights and
/// their masters stay as they are: checkpoints and exported models know nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fp8Config {
    /// Where factors come from.
    pub scaling: Fp8Scaling,
    /// Whether output projections take part too.
    #[serde(default)]
    pub heads: bool,
    /// Maps whose parameter names hold one of these texts stay out.
    #[serde(default)]
    pub skip: Vec<String>,
}

impl Fp8Config {
    /// Whether the weight of this name and role takes part.
    pub fn includes(&self, name: &str, role: Role) -> bool {
        let has_role = match role {
            Role::Matrix => true,
            Role::Head => self.heads,
            _ => false,
        };
        has_role && !self.skip.iter().any(|part| name.contains(part.as_str()))
    }
}
