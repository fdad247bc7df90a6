//! Muon and NorMuon: momentum, then the polar factor of the update, then, for NorMuon, rows of
//! one running size.
//!
//! ```text
//! m = m + (1 - mu) (g - m)
//! u = (1 - mu) g + mu m            Nesterov, else u = m
//! o = polar factor of u            [crate::polar]
//! o = rows of o scaled             NorMuon: [crate::neuron]
//! p = p (1 - lr * decay) - lr * scale * o
//! ```
//!
//! Sources: KellerJordan/Muon, `torch.optim.Muon`, arXiv 2502.16982 (Moonlight), 2510.05491
//! (NorMuon). Matrices of one shape, and transposes of them, make one stack and are multiplied
//! together.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Device, Kind, Tensor};
use serde::{Deserialize, Serialize};

use crate::config::check;
use crate::error::{Error, Result};
use crate::group;
use crate::masters;
use crate::momentum::Momentum;
use crate::neuron::{NeuronNorm, normalize_neurons};
use crate::polar::{self, Buffer, Coefficients, Compute, Iteration, Options, Workspace};

const OP: &str = "Muon";

/// Settings of Muon, and of NorMuon. What a configuration leaves out is as in
/// [`MuonConfig::muon`] with a learning rate of 0.02.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MuonConfig {
    /// Peak learning rate. With scale `match_rms_adamw` as AdamW's, with the others 10 to 100
    /// times as much.
    pub lr: f64,
    /// Each step takes `lr * weight_decay` of a weight; `scale` does not act on it.
    pub weight_decay: f64,
    /// Decay only where update and weight agree in sign (`u * p >= 0`, as dion does).
    pub cautious: bool,
    /// Momentum.
    pub momentum: Momentum,
    /// Look ahead by one step of momentum.
    pub nesterov: bool,
    /// Factor on the update, by shape.
    pub scale: LrScale,
    /// The polynomials of the polar factor.
    pub coefficients: Coefficients,
    /// Dtype of the matrix products.
    pub compute: Compute,
    /// Order of the matrix products.
    pub iteration: Iteration,
    /// NorMuon's second stage; without it this is Muon.
    pub neurons: Option<NeuronNorm>,
    /// Parameters that are several matrices in one.
    pub splits: Vec<Split>,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self::muon(0.02)
    }
}

impl MuonConfig {
    /// Muon with Polar Express, momentum 0.95 with Nesterov, scale `original` and no decay, as
    /// Keller Jordan's defaults are.
    pub fn muon(lr: f64) -> Self {
        Self {
            lr,
            weight_decay: 0.0,
            cautious: false,
            momentum: Momentum::constant(0.95),
            nesterov: true,
            scale: LrScale::Original,
            coefficients: Coefficients::polar_express(5),
            compute: Compute::Input,
            iteration: Iteration::Auto,
            neurons: None,
            splits: Vec::new(),
        }
    }

    /// NorMuon: the same, with the authors' second stage.
    pub fn normuon(lr: f64) -> Self {
        Self { neurons: Some(NeuronNorm::default()), ..Self::muon(lr) }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let not_negative = |key, value| check(key, value, value >= 0.0, "must not be negative");
        not_negative("muon.lr", self.lr)?;
        not_negative("muon.weight_decay", self.weight_decay)?;
        if self.cautious && self.weight_decay == 0.0 {
            let reason = "there is no weight decay to be cautious with";
            return check("muon.weight_decay", 0.0, false, reason);
        }
        self.momentum.validate("muon.momentum")?;
        self.options().validate("muon")?;
        if let Some(NeuronNorm { beta2, .. }) = self.neurons {
            let inside = (0.0..1.0).contains(&beta2);
            check("muon.neurons.beta2", beta2, inside, "must be at least 0 and below 1")?;
        }
        Ok(())
    }

    /// The matrices that `param` is cut into.
    ///
    /// # Errors
    /// A parameter that is no matrix, or that a split does not fit.
    fn blocks(&self, param: &Param) -> Result<Vec<Block>> {
        let (rows, cols) = param.weight.size2().during(&param.name)?;
        let split = self.splits.iter().rfind(|s| group::matches(&s.names, &param.name));
        let sizes = split.map_or(Ok(vec![rows]), |split| split.rows.sizes(rows));
        let sizes =
            sizes.map_err(|reason| Error::Parameter { name: param.name.clone(), reason })?;
        let mut start = 0;
        let mut blocks = Vec::with_capacity(sizes.len());
        for rows in sizes {
            blocks.push(Block { start, rows, cols });
            start += rows;
        }
        Ok(blocks)
    }

    /// Values of NorMuon's mean squares for `param`; none for Muon.
    pub(crate) fn stats_values(&self, param: &Param) -> Result<u64> {
        let Some(norm) = self.neurons else { return Ok(0) };
        let values = |block: &Block| {
            norm.axis.stats_shape(block.rows, block.cols).iter().product::<i64>() as u64
        };
        Ok(self.blocks(param)?.iter().map(values).sum())
    }

    fn options(&self) -> Options {
        let Self { coefficients, compute, iteration, .. } = *self;
        Options { coefficients, compute, iteration }
    }
}

/// The factor on an update of shape `[rows, cols]`. A semi-orthogonal matrix has root mean
/// square `1 / sqrt(max(rows, cols))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScale {
    /// `sqrt(max(1, rows / cols))`: Keller Jordan's, and `original` of `torch.optim.Muon`.
    Original,
    /// `sqrt(rows / cols)`, that is fan-out over fan-in: dion's default.
    Spectral,
    /// `0.2 sqrt(max(rows, cols))`, so that updates are as large as AdamW's: Moonlight's.
    MatchRmsAdamw,
    /// `0.2 sqrt(rows cols) / ‖o‖`: the same for a known norm, the NorMuon paper's.
    UpdateRms,
    /// 1.
    None,
}

impl LrScale {
    /// The factor, unless it depends on the update's norm.
    fn by_shape(self, rows: i64, cols: i64) -> f64 {
        let (rows, cols) = (rows as f64, cols as f64);
        match self {
            Self::Original => (rows / cols).max(1.0).sqrt(),
            Self::Spectral => (rows / cols).sqrt(),
            Self::MatchRmsAdamw => 0.2 * rows.max(cols).sqrt(),
            Self::UpdateRms | Self::None => 1.0,
        }
    }

    /// Multiplies each matrix of `o_krc` by the factor, in place.
    pub fn apply(self, o_krc: &mut Tensor) -> Result<()> {
        let (_, rows, cols) = o_krc.size3().during(OP)?;
        if self == Self::UpdateRms {
            let norm_k11 = o_krc.f_norm_scalaropt_dim(2.0, [1, 2], true).during(OP)?;
            let norm_k11 = norm_k11.f_clamp_min(f64::from(f32::MIN_POSITIVE)).during(OP)?;
            let rms = 0.2 * ((rows * cols) as f64).sqrt();
            let _ = o_krc.f_div_(&(norm_k11 / rms)).during(OP)?;
        } else {
            let factor = self.by_shape(rows, cols);
            if factor != 1.0 {
                let _ = o_krc.f_mul_scalar_(factor).during(OP)?;
            }
        }
        Ok(())
    }
}

/// Parameters that hold several matrices below one another, each with a polar factor of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Names of parameters, `*` for any text. Must match at least one.
    pub names: String,
    /// Where to cut.
    pub rows: Rows,
}

/// How the rows of a parameter are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// Into so many equal parts: 3 for fused Q, K and V.
    Parts(i64),
    /// Into parts of so many rows: a head's size, or that of two.
    Each(i64),
    /// Into parts of these sizes: Q, K and V with fewer heads of K and V.
    Sizes(Vec<i64>),
}

impl Rows {
    /// The sizes of the parts of `rows` rows, or why that can't be.
    fn sizes(&self, rows: i64) -> std::result::Result<Vec<i64>, String> {
        let equal = |parts: i64, each: i64| {
            if parts > 0 && each > 0 && parts * each == rows {
                return Ok(vec![each; parts as usize]);
            }
            Err(format!("{rows} rows can't be cut by {self:?}"))
        };
        match self {
            Self::Parts(parts) => equal(*parts, rows / (*parts).max(1)),
            Self::Each(each) => equal(rows / (*each).max(1), *each),
            Self::Sizes(sizes)
                if sizes.iter().all(|size| *size > 0) && sizes.iter().sum::<i64>() == rows =>
            {
                Ok(sizes.clone())
            }
            Self::Sizes(_) => Err(format!("{rows} rows can't be cut by {self:?}")),
        }
    }
}

/// What Muon remembers of a parameter.
#[derive(Debug)]
pub(crate) struct MuonState {
    /// FP32, or FP64 for such weights; of the parameter's shape.
    pub(crate) momentum: Tensor,
    /// NorMuon's mean squares, for each block.
    pub(crate) stats: Vec<Tensor>,
    blocks: Vec<Block>,
}

/// A matrix within a parameter.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: i64,
    rows: i64,
    cols: i64,
}

impl Block {
    fn of(self, matrix: &Tensor) -> Result<Tensor> {
        Ok(matrix.f_narrow(0, self.start, self.rows).during(OP)?)
    }

    /// Whether it is stacked transposed: stacks have rows no longer than columns.
    fn is_tall(self) -> bool {
        self.rows > self.cols
    }
}

/// A parameter with all that a step of Muon reads and writes.
pub(crate) struct MuonSlot<'a> {
    pub(crate) param: &'a mut Param,
    pub(crate) grad: &'a Tensor,
    pub(crate) state: &'a mut MuonState,
    pub(crate) low: Option<&'a mut Tensor>,
}

/// Values of one stack at most. GPUs need large stacks to be busy. On CPUs a block of more than
/// 32 MiB is given back to the system whenever it is freed, and every page of the next one costs
/// a fault.
fn stack_values(device: Device) -> i64 {
    if device == Device::Cpu { 1 << 22 } else { 1 << 26 }
}

/// Muon over a list of parameters.
#[derive(Debug)]
pub(crate) struct Muon {
    config: MuonConfig,
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
        Ok(Self { config: config.clone(), space: Workspace::default() })
    }

    /// Zero momentum for `param`, and the blocks that it is cut into.
    pub(crate) fn new_state(&self, param: &Param) -> Result<MuonState> {
        let blocks = self.config.blocks(param)?;
        let momentum = param.exact().detach().f_zeros_like().during(OP)?;
        let options = (momentum.kind(), momentum.device());
        let stats = self.config.neurons.map(|norm| {
            let stats = |block: &Block| {
                let shape = norm.axis.stats_shape(block.rows, block.cols);
                Tensor::f_zeros(shape, options).during(OP)
            };
            blocks.iter().map(stats).collect::<bert4rs_tensor_core::Result<Vec<_>>>()
        });
        Ok(MuonState { momentum, stats: stats.transpose()?.unwrap_or_default(), blocks })
    }

    /// One step of the parameters in `slots`; `step` counts from 0.
    pub(crate) fn step(
        &mut self,
        slots: &mut [MuonSlot<'_>],
        step: u64,
        lr_factor: f64,
        grad_scale: f64,
    ) -> Result<()> {
        let _guard = bert4rs_tensor_core::no_grad_guard();
        let mut space = std::mem::take(&mut self.space);
        let momentum = self.config.momentum.at(step);
        let lr = self.config.lr * lr_factor;
        for stack in stacks(slots) {
            let u_knm = self.updates(&mut space, slots, &stack, momentum, grad_scale)?;
            let o_knm = polar::wide_factor(&mut space, u_knm, &self.config.options())?;
            for run in stack_runs(&stack, slots) {
                let count = run.len() as i64;
                let o_knm = o_knm.f_narrow(0, run.start as i64, count).during(OP)?;
                self.apply(&mut space, slots, &stack[run], &o_knm, lr)?;
            }
            space.give(o_knm);
        }
        for slot in slots {
            self.round_weight(slot)?;
        }
        self.space = space;
        Ok(())
    }

    /// Moves the momentum of the blocks of a stack and returns their updates, all wide.
    fn updates(
        &self,
        space: &mut Workspace,
        slots: &mut [MuonSlot<'_>],
        stack: &[(usize, usize)],
        momentum: f64,
        grad_scale: f64,
    ) -> Result<Buffer> {
        let (slot, block) = stack[0];
        let Block { rows, cols, .. } = slots[slot].state.blocks[block];
        let first = &slots[slot].state.momentum;
        let (kind, device) = (first.kind(), first.device());
        let shape = [stack.len() as i64, rows.min(cols), rows.max(cols)];
        let u_knm = space.take(&shape, kind, device)?;
        for (index, &(slot, block)) in stack.iter().enumerate() {
            let slot = &mut slots[slot];
            let block = slot.state.blocks[block];
            let wide = u_knm.f_get(index as i64).during(OP)?;
            let mut u = if block.is_tall() { wide.f_transpose(0, 1).during(OP)? } else { wide };
            let mut m = block.of(&slot.state.momentum)?;
            let mut g = space.take(&[block.rows, block.cols], kind, device)?;
            g.f_copy_(&block.of(&slot.grad.detach())?).during(OP)?;
            if grad_scale != 1.0 {
                let _ = g.f_mul_scalar_(grad_scale).during(OP)?;
            }
            let _ = m.f_lerp_(&g, 1.0 - momentum).during(OP)?;
            if self.config.nesterov {
                let _ = g.f_lerp_(&m, momentum).during(OP)?;
                u.f_copy_(&g).during(OP)?;
            } else {
                u.f_copy_(&m).during(OP)?;
            }
            space.give(g);
        }
        Ok(u_knm)
    }

    /// Moves the exact weights of a run of equal blocks by `-lr * scale * o`, after decay.
    fn apply(
        &self,
        space: &mut Workspace,
        slots: &mut [MuonSlot<'_>],
        run: &[(usize, usize)],
        o_knm: &Tensor,
        lr: f64,
    ) -> Result<()> {
        let (slot, block) = run[0];
        let Block { rows, cols, .. } = slots[slot].state.blocks[block];
        let kind = slots[slot].state.momentum.kind();
        let turned =
            if rows > cols { o_knm.f_transpose(1, 2).during(OP)? } else { o_knm.shallow_clone() };
        let mut o_krc = if rows <= cols && turned.kind() == kind {
            Buffer::from(turned)
        } else {
            let shape = [run.len() as i64, rows, cols];
            let mut copy = space.take(&shape, kind, o_knm.device())?;
            copy.f_copy_(&turned).during(OP)?;
            copy
        };
        if let Some(norm) = &self.config.neurons {
            let stats: Vec<&Tensor> =
                run.iter().map(|&(slot, block)| &slots[slot].state.stats[block]).collect();
            let mut stats_k = Tensor::f_stack(&stats, 0).during(OP)?;
            normalize_neurons(&mut o_krc, &mut stats_k, norm)?;
            for (index, &(slot, block)) in run.iter().enumerate() {
                let new = stats_k.f_get(index as i64).during(OP)?;
                slots[slot].state.stats[block].f_copy_(&new).during(OP)?;
            }
        }
        self.config.scale.apply(&mut o_krc)?;
        for (index, &(slot, block)) in run.iter().enumerate() {
            let mut o_rc = o_krc.f_get(index as i64).during(OP)?;
            self.move_block(&mut slots[slot], block, &mut o_rc, lr)?;
        }
        space.give(o_krc);
        Ok(())
    }

    /// Decays a block's exact weight and moves it by `-lr * o`. `o_rc` is used up.
    fn move_block(
        &self,
        slot: &mut MuonSlot<'_>,
        block: usize,
        o_rc: &mut Tensor,
        lr: f64,
    ) -> Result<()> {
        let block = slot.state.blocks[block];
        let whole = masters::read(slot.param, slot.low.as_deref())?;
        let mut p = block.of(&whole)?;
        let decay = lr * self.config.weight_decay;
        if self.config.cautious {
            let agree = o_rc.f_mul(&p).during(OP)?.f_ge(0.0).during(OP)?;
            let agree = agree.f_to_kind(p.kind()).during(OP)?;
            let _ = p.f_mul_(&(agree * -decay + 1.0)).during(OP)?;
        } else if decay != 0.0 {
            let _ = p.f_mul_scalar_(1.0 - decay).during(OP)?;
        }
        let _ = o_rc.f_mul_scalar_(lr).during(OP)?;
        let _ = p.f_sub_(o_rc).during(OP)?;
        if slot.low.is_some() {
            masters::write(slot.param, slot.low.as_deref_mut(), &whole)?;
        }
        Ok(())
    }

    /// Makes a working weight of lower precision follow its master, once for all blocks.
    fn round_weight(&self, slot: &mut MuonSlot<'_>) -> Result<()> {
        if slot.low.is_none()
            && let Some(master) = slot.param.master.as_ref().map(Tensor::shallow_clone)
        {
            masters::write(slot.param, None, &master)?;
        }
        Ok(())
    }
}

/// Stacks of `(slot, block)` of equal sides and dtype, wide ones first.
fn stacks(slots: &[MuonSlot<'_>]) -> Vec<Vec<(usize, usize)>> {
    type Key = (i64, i64, bool, bool);
    let mut keyed: Vec<(Key, (usize, usize))> = Vec::new();
    for (slot_index, slot) in slots.iter().enumerate() {
        let double = slot.state.momentum.kind() == Kind::Double;
        for (block_index, block) in slot.state.blocks.iter().enumerate() {
            let (n, m) = (block.rows.min(block.cols), block.rows.max(block.cols));
            keyed.push(((n, m, double, block.is_tall()), (slot_index, block_index)));
        }
    }
    keyed.sort_by_key(|(key, _)| *key);
    let same = |left: &(Key, _), right: &(Key, _)| {
        let ((n, m, double, _), (n2, m2, double2, _)) = (left.0, right.0);
        (n, m, double) == (n2, m2, double2)
    };
    let mut stacks = Vec::new();
    for equal in keyed.chunk_by(same) {
        let (n, m, ..) = equal[0].0;
        let device = slots[equal[0].1.0].param.weight.device();
        let most = (stack_values(device) / (n * m).max(1)).max(1) as usize;
        stacks.extend(equal.chunks(most).map(|part| part.iter().map(|(_, at)| *at).collect()));
    }
    stacks
}

/// Ranges of `stack` that are transposed alike.
fn stack_runs(stack: &[(usize, usize)], slots: &[MuonSlot<'_>]) -> Vec<std::ops::Range<usize>> {
    let is_tall = |&(slot, block): &(usize, usize)| slots[slot].state.blocks[block].is_tall();
    let wide = stack.iter().take_while(|at| !is_tall(at)).count();
    [0..wide, wide..stack.len()].into_iter().filter(|run| !run.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_or_refused() {
        assert_eq!(Rows::Parts(3).sizes(12), Ok(vec![4, 4, 4]));
        assert_eq!(Rows::Each(6).sizes(12), Ok(vec![6, 6]));
        assert_eq!(Rows::Sizes(vec![8, 2, 2]).sizes(12), Ok(vec![8, 2, 2]));
        for rows in [Rows::Parts(5), Rows::Parts(0), Rows::Each(5), Rows::Each(0)] {
            assert!(rows.sizes(12).is_err(), "{rows:?}");
        }
        assert!(Rows::Sizes(vec![8, 2]).sizes(12).is_err());
    }

    #[test]
    fn scales_are_those_of_their_sources() {
        let ones = |rows, cols| Tensor::ones([1, rows, cols], (Kind::Double, Device::Cpu));
        for (scale, tall, wide) in [
            (LrScale::Original, 2.0, 1.0),
            (LrScale::Spectral, 2.0, 0.5),
            (LrScale::MatchRmsAdamw, 0.2 * 8.0, 0.2 * 8.0),
            (LrScale::UpdateRms, 0.2, 0.2),
            (LrScale::None, 1.0, 1.0),
        ] {
            for (input, expected) in [(ones(64, 16), tall), (ones(16, 64), wide)] {
                let mut found = input;
                scale.apply(&mut found).unwrap();
                let found = found.double_value(&[0, 3, 3]);
                assert!((found - expected).abs() < 1e-12, "{scale:?}: {found}");
            }
        }
    }
}
