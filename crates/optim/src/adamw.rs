//! AdamW: decoupled decay, bias correction, FP32 moments.
//!
//! The formula is at the head of [`bert4rs_kernels::adamw`]. [`update`] is the reference, by
//! libtorch's operations; the fused kernel does the same in one pass.

use bert4rs_kernels::adamw::{self as kernel, Job, Scalars, Weight};
use bert4rs_kernels::cuda;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::config::{AdamwConfig, Implementation};
use crate::error::{Error, Result};
use crate::masters;

/// What AdamW remembers of a parameter.
#[derive(Debug)]
pub struct AdamwState {
    /// Steps taken, counting those with a gradient only.
    pub steps: i64,
    /// Mean of the gradient, of the exact weight's dtype.
    pub moment1: Tensor,
    /// Mean of the gradient's square, of the exact weight's dtype.
    pub moment2: Tensor,
}

impl AdamwState {
    /// Zero moments for the exact weight `exact`.
    pub fn new(exact: &Tensor) -> Result<Self> {
        let zeros = || exact.detach().f_zeros_like().during("moments of AdamW");
        Ok(Self { steps: 0, moment1: zeros()?, moment2: zeros()? })
    }
}

/// The numbers of one step for one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwHyper {
    /// Learning rate of this step.
    pub lr: f64,
    /// See [`AdamwConfig::beta1`].
    pub beta1: f64,
    /// See [`AdamwConfig::beta2`].
    pub beta2: f64,
    /// See [`AdamwConfig::eps`].
    pub eps: f64,
    /// See [`AdamwConfig::weight_decay`].
    pub weight_decay: f64,
    /// See [`AdamwConfig::cautious`].
    pub cautious: bool,
    /// Factor on the gradient, from clipping.
    pub grad_scale: f64,
}

impl AdamwHyper {
    /// `1 - beta^steps` of both betas.
    fn corrections(&self, steps: i64) -> (f64, f64) {
        let power = |beta: f64| beta.powi(steps.min(i64::from(i32::MAX)) as i32);
        (1.0 - power(self.beta1), 1.0 - power(self.beta2))
    }

    /// The kernel's numbers, at step `steps`, counted from 1.
    fn scalars(&self, steps: i64) -> Scalars {
        let (correction1, correction2) = self.corrections(steps);
        Scalars {
            grad_scale: self.grad_scale as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            inverse_sqrt_correction2: (1.0 / correction2.sqrt()) as f32,
            eps: self.eps as f32,
            keep: (1.0 - self.lr * self.weight_decay) as f32,
            step_size: (self.lr / correction1) as f32,
            cautious: self.cautious,
        }
    }
}

/// One AdamW step for one parameter, by libtorch's operations: changes `exact` and `state`.
///
/// `grad` may be of any float dtype; `exact` is FP32 or FP64. The order of operations is that of
/// `torch.optim.AdamW`.
pub fn update(
    hyper: &AdamwHyper,
    grad: &Tensor,
    state: &mut AdamwState,
    exact: &mut Tensor,
) -> Result<()> {
    let op = "AdamW";
    let _guard = bert4rs_tensor_core::no_grad_guard();
    state.steps += 1;
    let (correction1, correction2) = hyper.corrections(state.steps);
    let mut grad = grad.detach().f_to_kind(exact.kind()).during(op)?;
    if hyper.grad_scale != 1.0 {
        grad = grad.f_mul_scalar(hyper.grad_scale).during(op)?;
    }
    let _ = state.moment1.f_lerp_(&grad, 1.0 - hyper.beta1).during(op)?;
    let grad_squared = grad.f_square().during(op)? * (1.0 - hyper.beta2);
    let _ =
        state.moment2.f_mul_scalar_(hyper.beta2).during(op)?.f_add_(&grad_squared).during(op)?;
    let denominator = state.moment2.f_sqrt().during(op)? / correction2.sqrt() + hyper.eps;
    let direction = state.moment1.f_div(&denominator).during(op)?;
    let decay = hyper.lr * hyper.weight_decay;
    if hyper.cautious {
        let agree = (&direction * &*exact).gt(0.0).to_kind(exact.kind());
        let _ = exact.f_mul_(&(agree * -decay + 1.0)).during(op)?;
    } else {
        let _ = exact.f_mul_scalar_(1.0 - decay).during(op)?;
    }
    let _ = exact.f_sub_(&(direction * (hyper.lr / correction1))).during(op)?;
    Ok(())
}

/// AdamW over a list of parameters.
#[derive(Debug)]
pub(crate) struct Adamw {
    config: AdamwConfig,
    fused: bool,
}

impl Adamw {
    /// AdamW for those of `params` that `mine` marks.
    pub(crate) fn new(config: &AdamwConfig, params: &[Param], mine: &[bool]) -> Result<Self> {
        let fused = fused_for("adamw.implementation", config.implementation, params, mine)?;
        Ok(Self { config: config.clone(), fused })
    }

    fn hyper(&self, param: &Param, lr_factor: f64, grad_scale: f64) -> AdamwHyper {
        let config = &self.config;
        AdamwHyper {
            lr: config.lr * config.lr_scale.of(param.role) * lr_factor,
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: config.weight_decay_of(param.role),
            cautious: config.cautious,
            grad_scale,
        }
    }

    /// One step of the parameters in `slots`.
    pub(crate) fn step(
        &self,
        slots: Vec<AdamwSlot<'_>>,
        lr_factor: f64,
        grad_scale: f64,
    ) -> Result<()> {
        if self.fused {
            return self.step_fused(slots, lr_factor, grad_scale);
        }
        for slot in slots {
            let hyper = self.hyper(slot.param, lr_factor, grad_scale);
            let mut exact = masters::read(slot.param, slot.low.as_deref())?;
            update(&hyper, slot.grad, slot.state, &mut exact)?;
            masters::write(slot.param, slot.low, &exact)?;
        }
        Ok(())
    }

    fn step_fused(&self, slots: Vec<AdamwSlot<'_>>, lr_factor: f64, grad_scale: f64) -> Result<()> {
        let grads = slots.iter().map(|slot| kernel_grad(slot.grad)).collect::<Result<Vec<_>>>()?;
        let mut jobs = Vec::with_capacity(slots.len());
        for (slot, grad) in slots.into_iter().zip(&grads) {
            let hyper = self.hyper(slot.param, lr_factor, grad_scale);
            slot.state.steps += 1;
            let Param { weight, master, .. } = slot.param;
            let weight = match (master, slot.low) {
                (_, Some(low)) => Weight::Split { weight, low },
                (Some(master), None) => Weight::Master { master, weight },
                (None, None) => Weight::Single(weight),
            };
            jobs.push(Job {
                scalars: hyper.scalars(slot.state.steps),
                grad,
                moment1: &mut slot.state.moment1,
                moment2: &mut slot.state.moment2,
                weight,
            });
        }
        Ok(kernel::step(jobs)?)
    }
}

/// A parameter with all that a step of AdamW reads and writes.
pub(crate) struct AdamwSlot<'a> {
    pub(crate) param: &'a mut Param,
    pub(crate) grad: &'a Tensor,
    pub(crate) state: &'a mut AdamwState,
    pub(crate) low: Option<&'a mut Tensor>,
}

/// Whether those of `params` that `mine` marks go through the fused kernels, as the setting `key`
/// asks.
///
/// # Errors
/// `fused` where a kernel can't take one of them.
pub(crate) fn fused_for(
    key: &str,
    implementation: Implementation,
    params: &[Param],
    mine: &[bool],
) -> Result<bool> {
    let marked = params.iter().zip(mine).filter(|(_, mine)| **mine);
    let obstacle = marked.map(|(param, _)| param).find_map(fused_obstacle);
    match (implementation, obstacle) {
        (Implementation::Plain, _) | (Implementation::Auto, Some(_)) => Ok(false),
        (Implementation::Auto | Implementation::Fused, None) => Ok(true),
        (Implementation::Fused, Some(reason)) => {
            Err(Error::Config { key: key.into(), value: "fused".into(), reason })
        }
    }
}

/// Why a fused kernel can't take `param`, if so.
fn fused_obstacle(param: &Param) -> Option<String> {
    let (weight, name) = (&param.weight, &param.name);
    let obstacle = match (weight.device(), weight.kind()) {
        (device, _) if device != Device::Cpu && !cuda::is_preferred(device) => {
            format!("is on {device:?}, where our kernels are not asked for")
        }
        (_, Kind::Float | Kind::BFloat16) if weight.is_contiguous() => return None,
        (_, Kind::Float | Kind::BFloat16) => "is not contiguous".into(),
        (_, kind) => format!("is {kind:?}, neither FP32 nor BF16"),
    };
    Some(format!("{name} {obstacle}; use \"plain\" or \"auto\""))
}

/// `grad` as the kernels read it: dense, FP32 or BF16. Others are converted.
pub(crate) fn kernel_grad(grad: &Tensor) -> Result<Tensor> {
    let op = "gradient for a kernel";
    let grad = match grad.kind() {
        Kind::Float | Kind::BFloat16 => grad.shallow_clone(),
        _ => grad.f_to_kind(Kind::Float).during(op)?,
    };
    Ok(grad.f_contiguous().during(op)?)
}
