//! AdamW: decoupled decay, bias correction, FP32 moments.
//!
//! The formula is at the head of [`bert4rs_kernels::adamw`], which has it in one pass and as a
//! reference in libtorch's operations.

mod config;
mod scalars;

use bert4rs_kernels::adamw::{self as kernel, ParamUpdate, Weight};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::policy::{Op, Policy};
use bert4rs_tensor_core::{Device, Tensor};

use crate::clip::GradScale;
use crate::error::Result;
use crate::implementation::{kernel_grad, uses_kernels};
use crate::masters;
use crate::param_group::Tuning;
use crate::verdict::Verdict;

pub use config::{AdamwConfig, RoleScale};
use scalars::AdamwScalars;

/// What AdamW remembers of a parameter.
#[derive(Debug)]
pub struct AdamwState {
    /// Mean of the gradient, of the exact weight's dtype.
    pub exp_avg: Tensor,
    /// Mean of the gradient's square, of the exact weight's dtype.
    pub exp_avg_sq: Tensor,
}

impl AdamwState {
    /// Zero moments for the exact weight `exact`.
    pub fn new(exact: &Tensor) -> Result<Self> {
        let zeros = || exact.detach().f_zeros_like().during("moments of AdamW");
        Ok(Self { exp_avg: zeros()?, exp_avg_sq: zeros()? })
    }
}

/// AdamW over a list of parameters.
#[derive(Debug)]
pub(crate) struct Adamw {
    config: AdamwConfig,
    fused: bool,
    scalars: AdamwScalars,
}

impl Adamw {
    /// AdamW for those of `params` that `mine` marks.
    pub(crate) fn new(
        config: &AdamwConfig,
        policy: &Policy,
        params: &[Param],
        mine: &[bool],
        tunings: &[Tuning],
        device: Device,
    ) -> Result<Self> {
        let setting = ("adamw.implementation", config.implementation);
        let fused = uses_kernels(setting, (policy, Op::AdamwStep), params, mine)?;
        let lr = |(param, tuning): (&Param, &Tuning)| {
            config.lr * config.lr_scale.of(param.role) * tuning.lr_scale
        };
        let weight_decay = |(param, tuning): (&Param, &Tuning)| {
            tuning.weight_decay.unwrap_or_else(|| config.weight_decay_of(param.role))
        };
        let scalars = AdamwScalars::new(
            config,
            &params.iter().zip(tunings).map(lr).collect::<Vec<_>>(),
            &params.iter().zip(tunings).map(weight_decay).collect::<Vec<_>>(),
            device,
        )?;
        Ok(Self { config: config.clone(), fused, scalars })
    }

    /// Makes the scalars of the next step, and counts it for the parameters that have a gradient.
    pub(crate) fn advance(
        &mut self,
        verdict: &Verdict,
        lr_factor: &Tensor,
        grads: &[Tensor],
    ) -> Result<()> {
        Ok(self.scalars.advance(verdict, lr_factor, grads)?)
    }

    /// Steps that parameter `index` has taken: FP64 `[]`, memory shared.
    pub(crate) fn steps(&self, index: usize) -> Result<Tensor> {
        Ok(self.scalars.steps(index)?)
    }

    /// All memory beside the parameters' own that a step reads or changes.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.scalars.tensors()
    }

    /// One step of the parameters in `slots`, of those of `new`.
    pub(crate) fn step(&self, slots: Vec<AdamwSlot<'_>>, scale: &GradScale) -> Result<()> {
        if self.fused {
            return self.step_fused(slots);
        }
        for slot in slots {
            let mut exact = masters::read(slot.param, slot.low.as_deref())?;
            let scalars = self.scalars.row(slot.index).unbind(exact.kind())?;
            let grad = slot.grad.detach().f_to_kind(exact.kind()).during("AdamW")?;
            let AdamwState { exp_avg, exp_avg_sq } = slot.state;
            let (grad, moments) = (scale.apply(grad)?, [exp_avg, exp_avg_sq]);
            kernel::step_reference(scalars, self.config.cautious, &grad, moments, &mut exact)?;
            masters::write(slot.param, slot.low, &exact)?;
        }
        Ok(())
    }

    fn step_fused(&self, slots: Vec<AdamwSlot<'_>>) -> Result<()> {
        let grads = slots.iter().map(|slot| kernel_grad(slot.grad)).collect::<Result<Vec<_>>>()?;
        let mut updates = Vec::with_capacity(slots.len());
        for (slot, grad) in slots.into_iter().zip(&grads) {
            let Param { weight, master, .. } = slot.param;
            let weight = match (master, slot.low) {
                (_, Some(low)) => Weight::Bf16Residual { weight, residual: low },
                (Some(master), None) => Weight::Master { master, weight },
                (None, None) => Weight::Single(weight),
            };
            updates.push(ParamUpdate {
                numbers: &self.scalars.row(slot.index).float,
                cautious: self.config.cautious,
                grad,
                moment1: &mut slot.state.exp_avg,
                moment2: &mut slot.state.exp_avg_sq,
                weight,
            });
        }
        Ok(kernel::step(updates)?)
    }
}

/// A parameter with all that a step of AdamW reads and writes.
pub(crate) struct AdamwSlot<'a> {
    /// Its place among all parameters.
    pub(crate) index: usize,
    pub(crate) param: &'a mut Param,
    pub(crate) grad: &'a Tensor,
    pub(crate) state: &'a mut AdamwState,
    pub(crate) low: Option<&'a mut Tensor>,
}
