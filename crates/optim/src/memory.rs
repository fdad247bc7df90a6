//! Bytes that the tensors of a training step hold, known from shapes before anything is made.
//!
//! For a parameter of `n` values whose exact value takes `e` bytes each (4, or 8 in FP64):
//!
//! | tensor | bytes |
//! | --- | --- |
//! | weight, gradient | `n` times the weight's dtype, each |
//! | master beside a BF16 weight | `4 n`; `2 n` with [`Masters::Bf16Residual`] |
//! | AdamW's moments | `2 e n` |
//! | Muon's momentum | `e n` |
//! | NorMuon's mean squares | `e` times the rows, or the longer side |

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::param::Param;

use crate::config::OptimizerConfig;
use crate::error::Result;
use crate::group::{self, UpdateRule};
use crate::masters::Masters;
use crate::optimizer::Optimizer;

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryFootprint {
    /// What the model computes with.
    pub weights: u64,
    /// FP32 masters, or the low bits that stand for them.
    pub masters: u64,
    /// One gradient a weight, alive from the backward pass to the optimizer's step.
    pub gradients: u64,
    /// First and second moments of AdamW.
    pub adamw: u64,
    /// Momentum of Muon, and mean squares of NorMuon.
    pub muon: u64,
}

impl MemoryFootprint {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.masters + self.gradients + self.adamw + self.muon
    }

    /// What [`crate::Optimizer::new`] and every step will hold for `params`, of which only names,
    /// roles, shapes and dtypes are read.
    ///
    /// # Errors
    /// As of [`crate::Optimizer::new`].
    pub fn of(config: &OptimizerConfig, params: &[Param]) -> Result<Self> {
        config.validate()?;
        let rules = group::partition(params, config.muon.is_some(), &config.assignments)?;
        let mut memory = Self::default();
        for (param, rule) in params.iter().zip(rules) {
            let values = param.weight.numel() as u64;
            let exact = element_size(param.master_or_weight());
            memory.weights += values * element_size(&param.weight);
            memory.gradients += values * element_size(&param.weight);
            memory.masters += match (&param.master, config.masters) {
                (None, _) => 0,
                (Some(_), Masters::Fp32) => values * exact,
                (Some(_), Masters::Bf16Residual) => values * 2,
            };
            match (rule, &config.muon) {
                (UpdateRule::Muon, Some(muon)) => {
                    memory.muon += exact * (values + muon.stats_values(param)?);
                }
                _ => memory.adamw += 2 * exact * values,
            }
        }
        Ok(memory)
    }
}

/// Bytes that the tensors of a run hold, counted.
///
/// `params` are the optimizer's; their gradients are counted as if they were there.
///
/// # Errors
/// What libtorch throws.
pub fn allocated_bytes(optimizer: &Optimizer, params: &[Param]) -> Result<u64> {
    let bytes = |tensor: &Tensor| tensor.numel() as u64 * element_size(tensor);
    let masters = params.iter().filter_map(|param| param.master.as_ref());
    let state: u64 = optimizer.state()?.values().map(bytes).sum();
    Ok(2 * weight_bytes(params) + masters.map(bytes).sum::<u64>() + state)
}

/// Bytes of weights.
pub(crate) fn weight_bytes(params: &[Param]) -> u64 {
    params.iter().map(|param| param.weight.numel() as u64 * element_size(&param.weight)).sum()
}

fn element_size(tensor: &Tensor) -> u64 {
    tensor.kind().elt_size_in_bytes() as u64
}
