//! One optimizer for a process alone, for ranks that do the same, and for ranks that divide it.

use std::collections::BTreeMap;

use bert4rs_tensor_core::distributed::{GradientExchange, ProcessGroup};
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Kind, Tensor};
use serde::{Deserialize, Serialize};

use super::{ShardedGradients, ShardedOptimizer};
use crate::config::OptimizerConfig;
use crate::error::Result;
use crate::memory;
use crate::optimizer::{Optimizer, StepReport};

/// Values of gradients that travel together: 64 MiB in FP32, few enough exchanges for their latency
/// not to count, and little memory beside the gradients.
const BUCKET_VALUES: i64 = 16 << 20;

/// What the processes of a run divide among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharding {
    /// Nothing: each holds and updates everything.
    #[default]
    None,
    /// Masters, the optimizer's states and Muon's polar factors.
    States,
    /// These and sums of gradients: a batch's gradients are exchanged and let go of before the next
    /// batch, so that each of `accumulate` batches costs an exchange.
    StatesAndGradients,
}

/// An optimizer over all ranks of a group.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum DataParallel {
    /// Each rank does the whole step, with gradients summed over ranks.
    Replicated(Optimizer, GradientExchange),
    /// Each rank does its part of the step.
    Sharded(ShardedOptimizer, Sharding),
}

/// Gradients of a step.
#[derive(Debug)]
pub enum StepGradients {
    /// This rank's, one a parameter.
    Own(Vec<Tensor>),
    /// Those of all ranks, for what this one owns.
    Reduced(ShardedGradients),
}

impl StepGradients {
    /// Adds those of another batch, reduced like these.
    ///
    /// # Errors
    /// Gradients that are not reduced.
    pub fn add(&mut self, other: Self) -> Result<()> {
        match (self, other) {
            (Self::Reduced(sum), Self::Reduced(other)) => sum.add(&other),
            _ => Err(not_sharded()),
        }
    }
}

impl From<Optimizer> for DataParallel {
    /// For a process alone.
    fn from(optimizer: Optimizer) -> Self {
        Self::Replicated(optimizer, GradientExchange::new(Vec::new(), BUCKET_VALUES))
    }
}

impl DataParallel {
    /// The optimizer for `params`, which all ranks have alike, divided as `config` says.
    ///
    /// # Errors
    /// Those of [`Optimizer::new`] and [`ShardedOptimizer::new`].
    pub fn new(
        group: &dyn ProcessGroup,
        config: OptimizerConfig,
        params: &mut [Param],
    ) -> Result<Self> {
        match config.sharding {
            sharding if sharding != Sharding::None && group.size() > 1 => {
                Ok(Self::Sharded(ShardedOptimizer::new(group, &config, params)?, sharding))
            }
            _ => {
                let shapes = params.iter().map(|param| param.weight.size()).collect();
                let exchange = GradientExchange::new(shapes, BUCKET_VALUES);
                Ok(Self::Replicated(Optimizer::new(config, params)?, exchange))
            }
        }
    }

    /// The optimizer of this rank alone: of all parameters, or of what it owns. Settings, counters
    /// and the norm of gradients are the same on all ranks.
    pub fn local(&self) -> &Optimizer {
        match self {
            Self::Replicated(optimizer, _) => optimizer,
            Self::Sharded(sharded, _) => &sharded.inner,
        }
    }

    /// The same, to be changed: alike on all ranks.
    pub fn local_mut(&mut self) -> &mut Optimizer {
        match self {
            Self::Replicated(optimizer, _) => optimizer,
            Self::Sharded(sharded, _) => &mut sharded.inner,
        }
    }

    /// Which of all parameters stay as they are; see [`Optimizer::frozen`].
    pub fn frozen(&self) -> Vec<bool> {
        match self {
            Self::Replicated(optimizer, _) => optimizer.frozen(),
            Self::Sharded(sharded, _) => sharded.whole.iter().map(|whole| whole.frozen).collect(),
        }
    }

    /// Whether each batch's gradients are to be reduced before the next one.
    pub fn shards_gradients(&self) -> bool {
        matches!(self, Self::Sharded(_, Sharding::StatesAndGradients))
    }

    /// Sums a batch's gradients over ranks, where they are sharded.
    ///
    /// # Errors
    /// Those of [`ShardedOptimizer::reduce`].
    pub fn reduce(&self, group: &dyn ProcessGroup, grads: Vec<Tensor>) -> Result<StepGradients> {
        match self {
            Self::Replicated(..) => Ok(StepGradients::Own(grads)),
            Self::Sharded(sharded, _) => Ok(StepGradients::Reduced(sharded.reduce(group, &grads)?)),
        }
    }

    /// One step with the sum over ranks of their gradients; see [`Optimizer::step`].
    ///
    /// # Errors
    /// Those of [`Optimizer::step`] and of the group.
    pub fn step(
        &mut self,
        group: &dyn ProcessGroup,
        params: &mut [Param],
        grads: StepGradients,
        lr_factor: f64,
    ) -> Result<StepReport> {
        match (self, grads) {
            (Self::Replicated(optimizer, exchange), StepGradients::Own(mut grads)) => {
                if group.size() > 1 {
                    exchange.all_reduce(group, &mut grads)?;
                }
                optimizer.step(params, &grads, lr_factor)
            }
            (Self::Sharded(sharded, _), StepGradients::Own(grads)) => {
                let reduced = sharded.reduce(group, &grads)?;
                drop(grads);
                sharded.step_reduced(group, params, &reduced, lr_factor)
            }
            (Self::Sharded(sharded, _), StepGradients::Reduced(reduced)) => {
                sharded.step_reduced(group, params, &reduced, lr_factor)
            }
            (Self::Replicated(..), StepGradients::Reduced(_)) => Err(not_sharded()),
        }
    }

    /// The whole state, as of one process; each rank gets all of it.
    ///
    /// # Errors
    /// Those of the group.
    pub fn state(&self, group: &dyn ProcessGroup) -> Result<BTreeMap<String, Tensor>> {
        match self {
            Self::Replicated(optimizer, _) => optimizer.state(),
            Self::Sharded(sharded, _) => sharded.state(group),
        }
    }

    /// Takes over what [`state`](Self::state) gave on any number of ranks, and the exact values of
    /// all parameters, by name. The parameters themselves must have got these before.
    ///
    /// # Errors
    /// Those of [`Optimizer::load_state`].
    pub fn load_state(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        exact: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        match self {
            Self::Replicated(optimizer, _) => optimizer.load_state(state),
            Self::Sharded(sharded, _) => {
                sharded.load_masters(exact)?;
                sharded.load_state(state)
            }
        }
    }

    /// The exact values that ranks divide among themselves, whole and by parameter; empty where
    /// each parameter has its own.
    ///
    /// # Errors
    /// Those of the group.
    pub fn gather_masters(&self, group: &dyn ProcessGroup) -> Result<Vec<Tensor>> {
        match self {
            Self::Replicated(..) => Ok(Vec::new()),
            Self::Sharded(sharded, _) => sharded.gather_masters(group),
        }
    }

    /// The parameters whose exact values this rank has: all of `params`, or its own pieces of them.
    pub fn exact<'a>(&'a self, params: &'a [Param]) -> &'a [Param] {
        match self {
            Self::Replicated(..) => params,
            Self::Sharded(sharded, _) => &sharded.pieces,
        }
    }

    /// Whole tensors, one a parameter, of such parts of them as are listed by
    /// [`exact`](Self::exact).
    ///
    /// # Errors
    /// Those of the group.
    pub fn gather_parts(
        &self,
        group: &dyn ProcessGroup,
        parts: &[Tensor],
        kind: Kind,
    ) -> Result<Vec<Tensor>> {
        match self {
            Self::Replicated(..) => Ok(parts.iter().map(Tensor::shallow_clone).collect()),
            Self::Sharded(sharded, _) => sharded.gather_parts(group, parts, kind),
        }
    }

    /// The reverse of [`gather_parts`](Self::gather_parts).
    ///
    /// # Errors
    /// Tensors of other sizes.
    pub fn parts_of(&self, wholes: &[Tensor]) -> Result<Vec<Tensor>> {
        match self {
            Self::Replicated(..) => Ok(wholes.iter().map(Tensor::shallow_clone).collect()),
            Self::Sharded(sharded, _) => sharded.parts_of(wholes),
        }
    }

    /// Bytes that this rank holds in weights, gradients as if all were there, masters and states.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn allocated_bytes(&self, params: &[Param]) -> Result<u64> {
        match self {
            Self::Replicated(optimizer, _) => memory::allocated_bytes(optimizer, params),
            Self::Sharded(sharded, _) => {
                Ok(2 * memory::weight_bytes(params) + sharded.allocated_bytes()?)
            }
        }
    }
}

fn not_sharded() -> crate::Error {
    let reason = "some gradients are sharded and others are not".into();
    crate::Error::Parameter { name: "(all)".into(), reason }
}
