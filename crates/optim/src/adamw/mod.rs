//! AdamW: decoupled decay, bias correction, FP32 moments.
//!
//! The formula is at the head of [`bert4rs_kernels::adamw`]. `update` is the reference, by
//! libtorch's operations; the fused kernel does the same in one pass.

mod config;
mod scalars;

use bert4rs_kernels::adamw::{self as kernel, ParamUpdate, Weight};
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::policy::{Op, Policy};

use crate::clip::GradScale;
use crate::error::Result;
use crate::group::device_of;
use crate::implementation::{kernel_grad, uses_kernels};
use crate::masters;
use crate::scalars::ScalarRow;
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

/// One AdamW step for one parameter, by libtorch's operations: changes `exact` and the moments.
///
/// `grad` may be of any float dtype; `exact` is FP32 or FP64. The order of operations is that of
/// `torch.optim.AdamW`, but that a factor stands for its division by a root.
fn update(
    (scalars, scale, cautious): (&ScalarRow, &GradScale, bool),
    grad: &Tensor,
    state: &mut AdamwState,
    exact: &mut Tensor,
) -> Result<()> {
    let op = "AdamW";
    let _guard = bert4rs_tensor_core::no_grad_guard();
    let [_, moved1, beta2, moved2, inverse_sqrt_correction2, eps, decay_factor, step_size] =
        scalars.unbind(exact.kind())?;
    let grad = scale.apply(grad.detach().f_to_kind(exact.kind()).during(op)?)?;
    let _ = state.exp_avg.f_lerp_tensor_(&grad, &moved1).during(op)?;
    let grad_squared = grad.f_square().during(op)? * moved2;
    let _ = state.exp_avg_sq.f_mul_(&beta2).during(op)?.f_add_(&grad_squared).during(op)?;
    let denominator = state.exp_avg_sq.f_sqrt().during(op)? * inverse_sqrt_correction2 + eps;
    let direction = state.exp_avg.f_div(&denominator).during(op)?;
    if cautious {
        let disagree = (&direction * &*exact).f_le(0.0).during(op)?;
        let decay_factor = decay_factor.f_expand_as(&disagree).during(op)?;
        let _ = exact.f_mul_(&decay_factor.f_masked_fill(&disagree, 1.0).during(op)?).during(op)?;
    } else {
        let _ = exact.f_mul_(&decay_factor).during(op)?;
    }
    let _ = exact.f_sub_(&(direction * step_size)).during(op)?;
    Ok(())
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
    ) -> Result<Self> {
        let setting = ("adamw.implementation", config.implementation);
        let fused = uses_kernels(setting, (policy, Op::AdamwStep), params, mine)?;
        let lr = |param: &Param| config.lr * config.lr_scale.of(param.role);
        let weight_decay = |param: &Param| config.weight_decay_of(param.role);
        let scalars = AdamwScalars::new(
            config,
            &params.iter().map(lr).collect::<Vec<_>>(),
            &params.iter().map(weight_decay).collect::<Vec<_>>(),
            device_of(params),
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

    /// One step of the parameters in `slots`, of those of `new`.
    pub(crate) fn step(&self, slots: Vec<AdamwSlot<'_>>, scale: &GradScale) -> Result<()> {
        if self.fused {
            return self.step_fused(slots);
        }
        for slot in slots {
            let how = (self.scalars.row(slot.index), scale, self.config.cautious);
            let mut exact = masters::read(slot.param, slot.low.as_deref())?;
            update(how, slot.grad, slot.state, &mut exact)?;
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
