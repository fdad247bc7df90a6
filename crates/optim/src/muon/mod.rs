//! Muon and NorMuon: momentum, then the polar factor of the update, then, for NorMuon, rows of
//! one running size.
//!
//! ```text
//! m = m + (1 - mu) (g - m)
//! u = (1 - mu) g + mu m            Nesterov, else u = m
//! o = polar factor of u            [crate::polar]
//! o = rows of o scaled             NorMuon: [crate::normuon]
//! p = p (1 - lr * decay) - lr * scale * o
//! ```
//!
//! Sources: KellerJordan/Muon, `torch.optim.Muon`, arXiv 2502.16982 (Moonlight), 2510.05491
//! (NorMuon). Matrices of one shape, and transposes of them, make one stack and are multiplied
//! together.

mod config;
mod fused;
mod plain;
mod stack;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Device, Tensor};

use crate::adamw::fused_for;
use crate::error::{Error, Result};
use crate::group;
use crate::numbers::{GradScale, MuonNumbers, upload};
use crate::polar::Workspace;

pub use config::{LrScale, MuonConfig, Rows, Split};
use stack::{Block, stacks};

const OP: &str = "Muon";

/// What Muon remembers of a parameter.
#[derive(Debug)]
pub(crate) struct MuonState {
    /// FP32, or FP64 for such weights; of the parameter's shape.
    pub(crate) momentum: Tensor,
    /// NorMuon's mean squares, for each block.
    pub(crate) stats: Vec<Tensor>,
    blocks: Vec<Block>,
}

/// A parameter with all that a step of Muon reads and writes.
pub(crate) struct MuonSlot<'a> {
    pub(crate) param: &'a mut Param,
    pub(crate) grad: &'a Tensor,
    pub(crate) state: &'a mut MuonState,
    pub(crate) low: Option<&'a mut Tensor>,
}

/// Muon over a list of parameters.
#[derive(Debug)]
pub(crate) struct Muon {
    config: MuonConfig,
    fused: bool,
    space: Workspace,
}

impl Muon {
    /// Muon for those of `params` that `mine` marks.
    ///
    /// # Errors
    /// A split that matches none of them or does not fit.
    pub(crate) fn new(config: &MuonConfig, params: &[Param], mine: &[bool]) -> Result<Self> {
        for split in &config.splits {
            let matched = params
                .iter()
                .zip(mine)
                .any(|(param, mine)| *mine && group::matches(&split.names, &param.name));
            if !matched {
                return Err(Error::Config {
                    key: "muon.splits.names".into(),
                    value: split.names.clone(),
                    reason: "matches no parameter of Muon".into(),
                });
            }
        }
        let fused = fused_for("muon.implementation", config.implementation, params, mine)?;
        Ok(Self { config: config.clone(), fused, space: Workspace::default() })
    }

    /// Zero momentum for `param`, and the blocks that it is cut into.
    pub(crate) fn new_state(&self, param: &Param) -> Result<MuonState> {
        let blocks = self.config.blocks(param)?;
        let momentum = param.master_or_weight().detach().f_zeros_like().during(OP)?;
        let options = (momentum.kind(), momentum.device());
        let stats = self.config.normuon.map(|norm| {
            let stats = |block: &Block| {
                let shape = norm.axis.stats_shape(block.rows, block.cols);
                Tensor::f_zeros(shape, options).during(OP)
            };
            blocks.iter().map(stats).collect::<bert4rs_tensor_core::Result<Vec<_>>>()
        });
        Ok(MuonState { momentum, stats: stats.transpose()?.unwrap_or_default(), blocks })
    }

    /// The numbers of step `step`, counted from 0, about which the host knows all.
    pub(crate) fn numbers(
        &self,
        step: u64,
        (lr_factor, grad_scale): (f64, f64),
        device: Device,
    ) -> Result<MuonNumbers> {
        let lr = self.config.lr * lr_factor;
        let momentum = self.config.momentum.at(step);
        let exact = [1.0 - momentum, grad_scale, lr, 1.0 - lr * self.config.weight_decay];
        let stats_weight = self.config.normuon.map_or(0.0, |norm| 1.0 - norm.beta2);
        let stats_weight = upload(&[stats_weight], device)?.f_get(0).during(OP)?;
        let scale = GradScale::Known(grad_scale);
        Ok(MuonNumbers::new(scale, upload(&exact, device)?, stats_weight)?)
    }

    /// The settings.
    pub(crate) fn config(&self) -> &MuonConfig {
        &self.config
    }

    /// One step of the parameters in `slots`.
    pub(crate) fn step(&mut self, slots: &mut [MuonSlot<'_>], numbers: &MuonNumbers) -> Result<()> {
        let _guard = bert4rs_tensor_core::no_grad_guard();
        let step_stack = if self.fused { fused::step_stack } else { plain::step_stack };
        for stack in stacks(slots) {
            step_stack(&self.config, numbers, &mut self.space, slots, &stack)?;
        }
        if !self.fused {
            slots.iter_mut().try_for_each(plain::round_weight)?;
        }
        Ok(())
    }
}
