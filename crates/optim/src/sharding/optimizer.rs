//! An optimizer over what this rank owns.

use bert4rs_tensor_core::distributed::{ProcessGroup, common_kinds, gather, reduce_scatter_sum};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Device, Kind, Tensor, no_grad_guard};

use super::flat::{flatten, of_piece, placed, segment, unflatten};
use super::plan::{Piece, ShardPlan};
use crate::config::OptimizerConfig;
use crate::error::{Error, Result};
use crate::group::{self, UpdateRule, device_of};
use crate::masters::Masters;
use crate::optimizer::{Optimizer, StepReport};
use crate::param_group::{Tuning, tunings};

const OP: &str = "sharded optimizer";

/// [`Optimizer`] with its states divided among the ranks of a group.
#[derive(Debug)]
pub struct ShardedOptimizer {
    pub(super) config: OptimizerConfig,
    pub(super) plan: ShardPlan,
    pub(super) rank: usize,
    pub(super) device: Device,
    /// Of this rank's pieces.
    pub(super) inner: Optimizer,
    /// This rank's pieces as parameters, in the plan's order. Their weights are views of the
    /// model's, their masters are their own.
    pub(super) pieces: Vec<Param>,
    /// The parameters of the model.
    pub(super) whole: Vec<Whole>,
    /// The dtype of states.
    pub(super) exact_kind: Kind,
    pub(super) has_masters: bool,
    pub(super) has_residuals: bool,
}

/// Gradients summed over ranks: of each rank, those of the values that it owns.
#[derive(Debug)]
pub struct ShardedGradients {
    /// This rank's segment, in FP32 or FP64.
    sum: Tensor,
    /// Whether any rank has a gradient of each parameter.
    present: Vec<bool>,
}

impl ShardedGradients {
    /// Adds those of another batch.
    ///
    /// # Errors
    /// Gradients of another model.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        let _guard = no_grad_guard();
        if self.present.len() != other.present.len() {
            let found = format!("{} gradients to {}", other.present.len(), self.present.len());
            return Err(unlike("(all)", found));
        }
        let _ = self.sum.f_add_(&other.sum).during(OP)?;
        self.present.iter_mut().zip(&other.present).for_each(|(own, other)| *own |= other);
        Ok(())
    }
}

/// A parameter of the model.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) name: String,
    pub(super) shape: Vec<i64>,
    pub(super) rule: UpdateRule,
    pub(super) frozen: bool,
}

impl ShardedOptimizer {
    /// An optimizer for `params`, which all ranks have alike, with the same values: the rules are
    /// those of [`Optimizer::new`]. Masters are taken out of `params`: each rank keeps those of
    /// its own pieces.
    ///
    /// # Errors
    /// Those of [`Optimizer::new`], and weights of more than one dtype.
    pub fn new(
        group: &dyn ProcessGroup,
        config: &OptimizerConfig,
        params: &mut [Param],
    ) -> Result<Self> {
        config.validate()?;
        refuse_mixed(params)?;
        let rules = group::partition(params, config.muon.is_some(), &config.assignments)?;
        let plan = plan(config, params, &rules, group.size())?;
        let own = plan.segment(group.rank());
        let mut pieces = own
            .iter()
            .map(|piece| piece_of(&params[piece.param], piece))
            .collect::<Result<Vec<_>>>()?;
        let piece_rules: Vec<UpdateRule> = own.iter().map(|piece| rules[piece.param]).collect();
        let tunings = tunings(params, &config.groups)?;
        let piece_tunings: Vec<Tuning> = own.iter().map(|piece| tunings[piece.param]).collect();
        let known = (&piece_rules[..], &piece_tunings[..]);
        let device = device_of(params);
        let inner = Optimizer::with_rules(of_pieces(config), &mut pieces, known, device)?;
        let low_precision = params.iter().any(|param| param.master.is_some());
        let is_residual = config.masters == Masters::Bf16Residual;
        let exact_kind =
            params.first().map_or(Kind::Float, |param| param.master_or_weight().kind());
        params.iter_mut().for_each(|param| param.master = None);
        let whole = |((param, rule), tuning): ((&Param, &UpdateRule), &Tuning)| Whole {
            name: param.name.clone(),
            shape: param.weight.size(),
            rule: *rule,
            frozen: tuning.frozen,
        };
        Ok(Self {
            config: config.clone(),
            whole: params.iter().zip(&rules).zip(&tunings).map(whole).collect(),
            plan,
            rank: group.rank(),
            device,
            inner,
            pieces,
            exact_kind,
            has_masters: low_precision && !is_residual,
            has_residuals: low_precision && is_residual,
        })
    }

    /// One step, as [`Optimizer::step`] with the sum over ranks of their `grads`. One that is
    /// undefined on some ranks counts as zeros there. Norm, clipping and the decision to skip are
    /// those of the sum, and the same on all ranks.
    ///
    /// # Errors
    /// Those of [`Optimizer::step`], and of the group.
    pub fn step(
        &mut self,
        group: &dyn ProcessGroup,
        params: &mut [Param],
        grads: &[Tensor],
        lr_factor: f64,
    ) -> Result<StepReport> {
        let gradients = self.reduce(group, grads)?;
        self.step_reduced(group, params, &gradients, lr_factor)
    }

    /// The sum over ranks of their `grads`, of which each rank gets what it owns: then they can go.
    ///
    /// # Errors
    /// Other gradients than those of [`new`](Self::new)'s parameters, and those of the group.
    pub fn reduce(&self, group: &dyn ProcessGroup, grads: &[Tensor]) -> Result<ShardedGradients> {
        let _guard = no_grad_guard();
        self.check_grads(grads)?;
        let kinds = common_kinds(group, grads)?;
        let kind = kinds.iter().flatten().copied().max_by_key(|kind| kind.elt_size_in_bytes());
        let to = (kind.unwrap_or(Kind::Float), self.device);
        let sum = reduce_scatter_sum(group, &flatten(&self.plan, grads, to)?)?;
        Ok(ShardedGradients { sum, present: kinds.iter().map(Option::is_some).collect() })
    }

    /// [`step`](Self::step) with gradients that [`reduce`](Self::reduce) gave.
    ///
    /// # Errors
    /// As of [`step`](Self::step).
    pub fn step_reduced(
        &mut self,
        group: &dyn ProcessGroup,
        params: &mut [Param],
        gradients: &ShardedGradients,
        lr_factor: f64,
    ) -> Result<StepReport> {
        let _guard = no_grad_guard();
        self.check_params(params)?;
        let mut own = Vec::with_capacity(self.pieces.len());
        for ((place, piece), param) in placed(self.plan.segment(self.rank)).zip(&mut self.pieces) {
            let shape = param.weight.size();
            param.weight = view_of(&params[piece.param], piece, &shape)?;
            own.push(match gradients.present[piece.param] {
                false => Tensor::new(),
                true => {
                    let part = gradients.sum.f_narrow(0, place, piece.count()).during(OP)?;
                    part.f_view(&shape[..]).during(OP)?
                }
            });
        }
        let report = self.inner.step_in(group, &mut self.pieces, &own, lr_factor)?;
        if !report.skipped {
            self.share_weights(group, params)?;
        }
        Ok(report)
    }

    /// Gives each rank the weights that the others own.
    fn share_weights(&self, group: &dyn ProcessGroup, params: &[Param]) -> Result<()> {
        let Some(first) = params.first() else { return Ok(()) };
        let own: Vec<_> = self.pieces.iter().map(|param| Some(param.weight.detach())).collect();
        let to = (first.weight.kind(), first.weight.device());
        let all = gather(group, &segment(&self.plan, self.rank, &own, to)?)?;
        let weights: Vec<Tensor> = params.iter().map(|param| param.weight.detach()).collect();
        Ok(unflatten(&self.plan, &all, &weights)?)
    }

    /// Steps skipped so far because gradients were not finite.
    pub fn skipped(&self) -> u64 {
        self.inner.skipped()
    }

    /// Who owns what.
    pub fn plan(&self) -> &ShardPlan {
        &self.plan
    }

    /// Bytes of states, and of masters or low bits, that this rank holds.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn allocated_bytes(&self) -> Result<u64> {
        let bytes = |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        let masters = self.pieces.iter().filter_map(|param| param.master.as_ref());
        let state = self.inner.state()?;
        Ok(masters.map(bytes).sum::<u64>() + state.values().map(bytes).sum::<u64>())
    }

    fn check_params(&self, params: &[Param]) -> Result<()> {
        if params.len() != self.whole.len() {
            return Err(unlike("(all)", format!("{} for {}", params.len(), self.whole.len())));
        }
        let differs = |(param, whole): &(&Param, &Whole)| param.name != whole.name;
        match params.iter().zip(&self.whole).find(differs) {
            Some((param, whole)) => {
                Err(unlike(&param.name, format!("stands where {} stood", whole.name)))
            }
            None => Ok(()),
        }
    }

    fn check_grads(&self, grads: &[Tensor]) -> Result<()> {
        if grads.len() != self.whole.len() {
            let found = format!("{} gradients for {}", grads.len(), self.whole.len());
            return Err(unlike("(all)", found));
        }
        let differs =
            |(grad, whole): &(&Tensor, &Whole)| grad.defined() && grad.size() != whole.shape;
        match grads.iter().zip(&self.whole).find(differs) {
            Some((grad, Whole { name, shape, .. })) => {
                Err(unlike(name, format!("gradient of {:?}, weight {shape:?}", grad.size())))
            }
            None => Ok(()),
        }
    }
}

/// The error for parameters or gradients other than those that the optimizer was made for.
fn unlike(name: &str, reason: String) -> Error {
    Error::Parameter { name: name.to_owned(), reason }
}

/// The plan for `params` with these rules, on `ranks`.
pub(crate) fn plan(
    config: &OptimizerConfig,
    params: &[Param],
    rules: &[UpdateRule],
    ranks: usize,
) -> Result<ShardPlan> {
    let (mut matrices, mut rest) = (Vec::new(), Vec::new());
    if let Some(muon) = &config.muon {
        muon.check_splits(params, rules)?;
    }
    for (index, (param, rule)) in params.iter().zip(rules).enumerate() {
        match (rule, &config.muon) {
            (UpdateRule::Muon, Some(muon)) => {
                for [start, rows, cols] in muon.matrices(param)? {
                    let values = start * cols..(start + rows) * cols;
                    matrices.push(Piece { param: index, values, matrix: Some([rows, cols]) });
                }
            }
            _ => {
                let values = 0..param.weight.numel() as i64;
                rest.push(Piece { param: index, values, matrix: None });
            }
        }
    }
    Ok(ShardPlan::new(matrices, &rest, ranks))
}

/// The settings for pieces: they have their rules already, and are cut already.
fn of_pieces(config: &OptimizerConfig) -> OptimizerConfig {
    let mut config = config.clone();
    config.assignments.clear();
    config.groups.clear();
    if let Some(muon) = &mut config.muon {
        muon.splits.clear();
    }
    config
}

/// A piece as a parameter of its own: a matrix, or a vector of values.
fn piece_of(param: &Param, piece: &Piece) -> Result<Param> {
    let shape = piece.matrix.map_or_else(|| vec![piece.count()], |sides| sides.to_vec());
    let master = match &param.master {
        None => None,
        Some(master) => {
            let own = of_piece(master, piece)?.copy();
            Some(own.f_view(&shape[..]).during(OP)?)
        }
    };
    let name = format!("{}[{}..{}]", param.name, piece.values.start, piece.values.end);
    Ok(Param { name, role: param.role, weight: view_of(param, piece, &shape)?, master })
}

/// The weights of a piece, memory shared with the parameter's.
fn view_of(param: &Param, piece: &Piece, shape: &[i64]) -> Result<Tensor> {
    Ok(of_piece(&param.weight, piece)?.f_view(shape).during(OP)?)
}

/// Weights travel as one buffer.
fn refuse_mixed(params: &[Param]) -> Result<()> {
    let kinds = |param: &Param| (param.weight.kind(), param.master.as_ref().map(Tensor::kind));
    let Some(first) = params.first().map(kinds) else { return Ok(()) };
    match params.iter().find(|param| kinds(param) != first) {
        None => Ok(()),
        Some(param) => {
            let reason = format!(
                "is {:?}, others are {:?}; sharding takes one dtype",
                kinds(param).0,
                first.0
            );
            Err(Error::Parameter { name: param.name.clone(), reason })
        }
    }
}
