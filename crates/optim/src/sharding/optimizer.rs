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

/// A parameter of the model.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) name: String,
    pub(super) shape: Vec<i64>,
    pub(super) rule: UpdateRule,
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
        let inner = Optimizer::with_rules(of_pieces(config), &mut pieces, &piece_rules)?;
        let low_precision = params.iter().any(|param| param.master.is_some());
        let is_residual = config.masters == Masters::Bf16Residual;
        let exact_kind =
            params.first().map_or(Kind::Float, |param| param.master_or_weight().kind());
        params.iter_mut().for_each(|param| param.master = None);
        let whole = |(param, rule): (&Param, &UpdateRule)| Whole {
            name: param.name.clone(),
            shape: param.weight.size(),
            rule: *rule,
        };
        Ok(Self {
            config: config.clone(),
            whole: params.iter().zip(&rules).map(whole).collect(),
            plan,
            rank: group.rank(),
            device: device_of(params),
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
        let _guard = no_grad_guard();
        self.check(params, grads)?;
        let kinds = common_kinds(group, grads)?;
        let kind = kinds.iter().flatten().copied().max_by_key(|kind| kind.elt_size_in_bytes());
        let to = (kind.unwrap_or(Kind::Float), self.device);
        let sum = reduce_scatter_sum(group, &flatten(&self.plan, grads, to)?)?;
        let mut own = Vec::with_capacity(self.pieces.len());
        for ((place, piece), param) in placed(self.plan.segment(self.rank)).zip(&mut self.pieces) {
            let shape = param.weight.size();
            param.weight = view_of(&params[piece.param], piece, &shape)?;
            own.push(match kinds[piece.param] {
                None => Tensor::new(),
                Some(_) => {
                    let part = sum.f_narrow(0, place, piece.count()).during(OP)?;
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

    fn check(&self, params: &[Param], grads: &[Tensor]) -> Result<()> {
        let differs =
            |name: &str, reason: String| Err(Error::Parameter { name: name.to_owned(), reason });
        let count = self.whole.len();
        if params.len() != count || grads.len() != count {
            let found = format!("{} parameters and {} gradients", params.len(), grads.len());
            return differs("(all)", format!("{found} for {count}"));
        }
        for ((param, grad), Whole { name, shape, .. }) in params.iter().zip(grads).zip(&self.whole)
        {
            if param.name != *name || (grad.defined() && grad.size() != *shape) {
                let found = format!("{} with a gradient of {:?}", param.name, grad.size());
                return differs(name, format!("{found} stands where {shape:?} stood"));
            }
        }
        Ok(())
    }
}

/// The plan for `params` with these rules, on `ranks`.
fn plan(
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
