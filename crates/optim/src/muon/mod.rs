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
mod scalars;
mod stack;
mod turns;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::policy::{Op, Policy};
use bert4rs_tensor_core::{Device, Tensor};

use crate::clip::GradScale;
use crate::error::Result;
use crate::implementation::uses_kernels;
use crate::param_group::Tuning;
use crate::polar::{PolarOptions, Workspace};
use crate::verdict::Verdict;

pub use config::{LrScale, MatrixSplit, MuonConfig, SplitRows};
use scalars::MuonScalars;
use stack::{MatrixBlock, stacks};
pub(crate) use turns::Turn;

const OP: &str = "Muon";

/// What Muon remembers of a parameter.
#[derive(Debug)]
pub(crate) struct MuonState {
    /// FP32, or FP64 for such weights; of the parameter's shape.
    pub(crate) momentum_buffer: Tensor,
    /// NorMuon's mean squares, for each block.
    second_momentum_buffer: Vec<Tensor>,
    blocks: Vec<MatrixBlock>,
}

impl MuonState {
    /// NorMuon's mean squares with their names: numbered where the parameter is split.
    pub(crate) fn second_momentum_buffers(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let is_split = self.blocks.len() > 1;
        self.second_momentum_buffer.iter().enumerate().map(move |(block, buffer)| {
            let number = if is_split { format!(".{block}") } else { String::new() };
            (format!("second_momentum_buffer{number}"), buffer)
        })
    }
}

/// A parameter with all that a step of Muon reads and writes.
pub(crate) struct MuonSlot<'a> {
    /// Its place among all parameters.
    pub(crate) index: usize,
    pub(crate) param: &'a mut Param,
    pub(crate) grad: &'a Tensor,
    pub(crate) state: &'a mut MuonState,
    pub(crate) low: Option<&'a mut Tensor>,
}

/// Muon over a list of parameters.
#[derive(Debug)]
pub(crate) struct Muon {
    config: MuonConfig,
    options: PolarOptions,
    fused: bool,
    scalars: MuonScalars,
    space: Workspace,
}

/// What is equal for all parameters in a step.
struct MuonStep<'a> {
    config: &'a MuonConfig,
    options: &'a PolarOptions,
    scalars: &'a MuonScalars,
    scale: &'a GradScale,
}

/// One step of the blocks of a stack.
type StepStack =
    fn(&MuonStep<'_>, &mut Workspace, &mut [MuonSlot<'_>], &[(usize, usize)]) -> Result<()>;

/// A step of a block's momentum alone.
type MoveMomentum = fn(&MuonStep<'_>, &mut Workspace, &mut MuonSlot<'_>, MatrixBlock) -> Result<()>;

impl Muon {
    /// Muon for those of `params` that `mine` marks, at the rates of `tunings`.
    ///
    /// # Errors
    /// Kernels asked for that can't take one of them.
    pub(crate) fn new(
        config: &MuonConfig,
        policy: &Policy,
        (params, tunings): (&[Param], &[Tuning]),
        mine: &[bool],
        device: Device,
    ) -> Result<Self> {
        let setting = ("muon.implementation", config.implementation);
        let fused = uses_kernels(setting, (policy, Op::MuonStep), params, mine)?;
        let options = config.polar_options(policy);
        let scalars = MuonScalars::new(config, tunings, device)?;
        Ok(Self { config: config.clone(), options, fused, scalars, space: Workspace::default() })
    }

    /// Zero momentum for `param`, and the blocks that it is cut into.
    pub(crate) fn new_state(&self, param: &Param) -> Result<MuonState> {
        let blocks = self.config.blocks(param)?;
        let momentum_buffer = param.master_or_weight().detach().f_zeros_like().during(OP)?;
        let options = (momentum_buffer.kind(), momentum_buffer.device());
        let stats = self.config.normuon.map(|norm| {
            let stats = |block: &MatrixBlock| {
                let shape = norm.axis.stats_shape(block.rows, block.cols);
                Tensor::f_zeros(shape, options).during(OP)
            };
            blocks.iter().map(stats).collect::<bert4rs_tensor_core::Result<Vec<_>>>()
        });
        let second_momentum_buffer = stats.transpose()?.unwrap_or_default();
        Ok(MuonState { momentum_buffer, second_momentum_buffer, blocks })
    }

    /// Makes the scalars of the next step; `is_clipped` tells whether clipping acts on gradients
    /// here.
    pub(crate) fn advance(
        &mut self,
        verdict: &Verdict,
        lr_factor: &Tensor,
        is_clipped: bool,
    ) -> Result<()> {
        Ok(self.scalars.advance(&self.config, verdict, lr_factor, is_clipped)?)
    }

    /// All memory beside the parameters' own that a step reads or changes.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.scalars.tensors().chain(self.space.tensors())
    }

    /// One step of the parameters in `slots`: all momentum, and the weights whose `turn` it is.
    pub(crate) fn step(
        &mut self,
        slots: &mut [MuonSlot<'_>],
        scale: &GradScale,
        turn: Turn,
    ) -> Result<()> {
        let _guard = bert4rs_tensor_core::no_grad_guard();
        let (step_stack, move_momentum): (StepStack, MoveMomentum) = match self.fused {
            true => (fused::step_stack, fused::move_momentum),
            false => (plain::step_stack, plain::move_momentum),
        };
        let step = MuonStep {
            config: &self.config,
            options: &self.options,
            scalars: &self.scalars,
            scale,
        };
        for stack in stacks(slots, turn) {
            step_stack(&step, &mut self.space, slots, &stack)?;
        }
        let waits = |slot: &&mut MuonSlot<'_>| !turn.is_of(&slot.param.name);
        for slot in slots.iter_mut().filter(waits) {
            for block in slot.state.blocks.clone() {
                move_momentum(&step, &mut self.space, slot, block)?;
            }
        }
        if !self.fused {
            slots.iter_mut().try_for_each(plain::round_weight)?;
        }
        Ok(())
    }
}
