//! AdamW: decoupled decay, bias correction, FP32 moments.
//!
//! The formula is at the head of [`bert4rs_kernels::adamw`]. `update` is the reference, by
//! libtorch's operations; the fused kernel does the same in one pass.

use bert4rs_kernels::adamw::{self as kernel, Job, Scalars, Weight};
use bert4rs_kernels::cuda;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::config::{AdamwConfig, Implementation};
use crate::error::{Error, Result};
use crate::masters;
use crate::numbers::{AdamwNumbers, GradScale, upload};

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

/// What parameters of one learning rate, decay and age share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AdamwGroup {
    /// Learning rate where the schedule's factor is 1.
    pub(crate) lr: f64,
    /// See [`AdamwConfig::weight_decay`].
    pub(crate) weight_decay: f64,
    /// Steps taken before.
    pub(crate) steps: i64,
}

impl AdamwGroup {
    /// The kernel's numbers of the next step, in the order of [`kernel::Scalars`].
    fn row(&self, config: &AdamwConfig, lr_factor: f64, grad_scale: f64) -> [f64; Scalars::COUNT] {
        let steps = (self.steps + 1).min(i64::from(i32::MAX)) as i32;
        let correction = |beta: f64| 1.0 - beta.powi(steps);
        let lr = self.lr * lr_factor;
        [
            grad_scale,
            1.0 - config.beta1,
            config.beta2,
            1.0 - config.beta2,
            1.0 / correction(config.beta2).sqrt(),
            config.eps,
            1.0 - lr * self.weight_decay,
            lr / correction(config.beta1),
        ]
    }
}

/// One AdamW step for one parameter, by libtorch's operations: changes `exact` and the moments.
///
/// `grad` may be of any float dtype; `exact` is FP32 or FP64. The order of operations is that of
/// `torch.optim.AdamW`, but that a factor stands for its division by a root.
fn update(
    (numbers, scale, cautious): (&AdamwNumbers, &GradScale, bool),
    grad: &Tensor,
    state: &mut AdamwState,
    exact: &mut Tensor,
) -> Result<()> {
    let op = "AdamW";
    let _guard = bert4rs_tensor_core::no_grad_guard();
    let [_, moved1, beta2, moved2, inverse_sqrt_correction2, eps, keep, step_size] =
        numbers.scalars(exact.kind())?;
    let grad = scale.apply(grad.detach().f_to_kind(exact.kind()).during(op)?)?;
    let _ = state.moment1.f_lerp_tensor_(&grad, &moved1).during(op)?;
    let grad_squared = grad.f_square().during(op)? * moved2;
    let _ = state.moment2.f_mul_(&beta2).during(op)?.f_add_(&grad_squared).during(op)?;
    let denominator = state.moment2.f_sqrt().during(op)? * inverse_sqrt_correction2 + eps;
    let direction = state.moment1.f_div(&denominator).during(op)?;
    if cautious {
        let disagree = (&direction * &*exact).f_le(0.0).during(op)?;
        let keep = keep.f_expand_as(&disagree).during(op)?;
        let _ = exact.f_mul_(&keep.f_masked_fill(&disagree, 1.0).during(op)?).during(op)?;
    } else {
        let _ = exact.f_mul_(&keep).during(op)?;
    }
    let _ = exact.f_sub_(&(direction * step_size)).during(op)?;
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

    /// What `param` shares with others, after `steps`.
    pub(crate) fn group_of(&self, param: &Param, steps: i64) -> AdamwGroup {
        AdamwGroup {
            lr: self.config.lr * self.config.lr_scale.of(param.role),
            weight_decay: self.config.weight_decay_of(param.role),
            steps,
        }
    }

    /// The numbers of a step about which the host knows all, for each of `groups`.
    pub(crate) fn numbers(
        &self,
        groups: &[AdamwGroup],
        (lr_factor, grad_scale): (f64, f64),
        device: Device,
    ) -> Result<Vec<AdamwNumbers>> {
        let row = |group: &AdamwGroup| group.row(&self.config, lr_factor, grad_scale);
        let rows = upload(groups.iter().map(row).collect::<Vec<_>>().as_flattened(), device)?;
        let shape = [groups.len() as i64, Scalars::COUNT as i64];
        let rows = rows.f_view(shape).during("numbers of AdamW")?;
        Ok(AdamwNumbers::of_rows(&rows)?)
    }

    /// One step of the parameters in `slots`, of which each has numbers of its own.
    pub(crate) fn step(&self, slots: Vec<AdamwSlot<'_>>, scale: &GradScale) -> Result<()> {
        if self.fused {
            return self.step_fused(slots);
        }
        for slot in slots {
            let how = (slot.numbers, scale, self.config.cautious);
            let mut exact = masters::read(slot.param, slot.low.as_deref())?;
            update(how, slot.grad, slot.state, &mut exact)?;
            masters::write(slot.param, slot.low, &exact)?;
        }
        Ok(())
    }

    fn step_fused(&self, slots: Vec<AdamwSlot<'_>>) -> Result<()> {
        let grads = slots.iter().map(|slot| kernel_grad(slot.grad)).collect::<Result<Vec<_>>>()?;
        let mut jobs = Vec::with_capacity(slots.len());
        for (slot, grad) in slots.into_iter().zip(&grads) {
            let Param { weight, master, .. } = slot.param;
            let weight = match (master, slot.low) {
                (_, Some(low)) => Weight::Split { weight, low },
                (Some(master), None) => Weight::Master { master, weight },
                (None, None) => Weight::Single(weight),
            };
            jobs.push(Job {
                numbers: &slot.numbers.float,
                cautious: self.config.cautious,
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
    pub(crate) numbers: &'a AdamwNumbers,
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
