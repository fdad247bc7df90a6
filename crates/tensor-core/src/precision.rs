//! Dtypes, chosen once and passed on: no autocast, no hidden casts.

#![expect(unsafe_code, reason = "the border to C and C++")]

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::cpu::CpuFeatures;
use crate::error::{Error, Result};
use crate::shim;

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

/// Sets whether matrix products of FP32 tensors on CUDA devices round what they multiply to TF32,
/// which keeps 10 bits of 23 and takes far less time. Sums stay FP32. For the whole process.
///
/// # Errors
/// `allow` where `device` is no CUDA device: nothing else has TF32.
pub fn allow_tf32(allow: bool, device: Device) -> Result<()> {
    match device {
        Device::Cuda(_) => {
            // SAFETY: no pointers go in, and the message is ours.
            unsafe { shim::check("TF32", shim::b4_allow_tf32(allow)) }
        }
        _ if !allow => Ok(()),
        _ => Err(Error::Unsupported {
            what: "TF32".into(),
            reason: format!("{device:?} is no CUDA device, and only these have it; leave it false"),
        }),
    }
}
