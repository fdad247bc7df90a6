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
use crate::sharding::{self, Piece, Sharding};

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
            memory.masters += values * master_size(config, param);
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

impl MemoryFootprint {
    /// The same on that of `ranks` which holds most, where they divide what `config.sharding` says.
    /// Gradients are whole on each for the time of a backward pass.
    ///
    /// # Errors
    /// As of [`crate::ShardedOptimizer::new`].
    pub fn of_rank(config: &OptimizerConfig, params: &[Param], ranks: usize) -> Result<Self> {
        let whole = Self::of(config, params)?;
        if config.sharding == Sharding::None || ranks <= 1 {
            return Ok(whole);
        }
        let rules = group::partition(params, config.muon.is_some(), &config.assignments)?;
        let plan = sharding::plan(config, params, &rules, ranks)?;
        let of_rank = |pieces: &Vec<Piece>| {
            let mut rank = Self { masters: 0, adamw: 0, muon: 0, ..whole };
            for piece in pieces {
                let (values, param) = (piece.count() as u64, &params[piece.param]);
                let exact = element_size(param.master_or_weight());
                rank.masters += values * master_size(config, param);
                match (piece.matrix, &config.muon) {
                    (Some([rows, cols]), Some(muon)) => {
                        let stats =
                            muon.normuon.map_or([0, 0], |norm| norm.axis.stats_shape(rows, cols));
                        rank.muon += exact * (values + (stats[0] * stats[1]) as u64);
                    }
                    _ => rank.adamw += 2 * exact * values,
                }
            }
            rank
        };
        let all = plan.segments().iter().map(of_rank);
        Ok(all.max_by_key(Self::total).unwrap_or(whole))
    }
}

/// Bytes of a value's master, or of the low bits that stand for it.
fn master_size(config: &OptimizerConfig, param: &Param) -> u64 {
    match (&param.master, config.masters) {
        (None, _) => 0,
        (Some(master), Masters::Fp32) => element_size(master),
        (Some(_), Masters::Bf16Residual) => 2,
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
