//! The optimizer of a model: the only loop over parameters.

use std::collections::BTreeMap;
use std::path::Path;

use bert4rs_tensor_core::distributed::{ProcessGroup, Solo};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Device, Kind, Tensor, safetensors};

use crate::adamw::{Adamw, AdamwSlot, AdamwState};
use crate::clip::{ClipConfig, ClipScope, GradScale};
use crate::config::OptimizerConfig;
use crate::error::{Error, Result, check};
use crate::group::{self, UpdateRule, device_of};
use crate::masters;
use crate::muon::{Muon, MuonSlot, MuonState, Turn};
use crate::param_group::{Tuning, tunings};
use crate::scalars::upload;
use crate::verdict::{Verdict, VerdictReport};

/// Name of steps taken, steps skipped, and those skipped in a row, as saved.
pub(crate) const COUNTERS: &str = "optimizer.counters";
/// Name of the steps that a parameter of AdamW has taken, as saved.
pub(crate) const STEP: &str = "step";
/// Name of the bits that a BF16 weight lacks, as saved.
pub(crate) const BF16_RESIDUAL: &str = "bf16_residual";

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Norm of all gradients, before clipping. Not finite if `skipped`.
    pub grad_norm: f64,
    /// The factor that clipping put on the gradients in its scope: 1 if it did not act.
    pub clip_factor: f64,
    /// The gradients were not finite, so that nothing was changed.
    pub skipped: bool,
}

/// One parameter's part of the optimizer.
#[derive(Debug)]
struct Slot {
    name: String,
    shape: Vec<i64>,
    low: Option<Tensor>,
    state: State,
    frozen: bool,
}

#[derive(Debug)]
enum State {
    Adamw(AdamwState),
    Muon(MuonState),
}

/// Rules, states and counters for the parameters of a model.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    slots: Vec<Slot>,
    adamw: Adamw,
    muon: Option<Muon>,
    verdict: Verdict,
    /// The schedule's factor on the learning rate, FP64 `[]`.
    lr_factor: Tensor,
    /// Steps skipped, as the host last read.
    skipped: u64,
}

impl Optimizer {
    /// An optimizer for `params`, which every later call gets in the same order. With
    /// [`Masters::Bf16Residual`](masters::Masters::Bf16Residual) FP32 masters are taken out of
    /// them.
    ///
    /// # Errors
    /// Settings that can't act, and weights of low precision without masters.
    pub fn new(config: OptimizerConfig, params: &mut [Param]) -> Result<Self> {
        config.validate()?;
        let rules = group::partition(params, config.muon.is_some(), &config.assignments)?;
        if let Some(muon) = &config.muon {
            muon.check_splits(params, &rules)?;
        }
        let tunings = tunings(params, &config.groups)?;
        let device = device_of(params);
        Self::with_rules(config, params, (&rules, &tunings), device)
    }

    /// [`new`](Self::new) where each parameter's rule and what its group says are known, and the
    /// device even where there are no parameters.
    pub(crate) fn with_rules(
        config: OptimizerConfig,
        params: &mut [Param],
        (rules, tunings): (&[UpdateRule], &[Tuning]),
        device: Device,
    ) -> Result<Self> {
        let mine = |mine: UpdateRule| rules.iter().map(|rule| *rule == mine).collect::<Vec<_>>();
        let is_adamw = mine(UpdateRule::Adamw);
        let policy = &config.policy;
        let adamw = Adamw::new(&config.adamw, policy, params, &is_adamw, tunings, device)?;
        let muon = config.muon.as_ref();
        let muon = muon
            .map(|muon| {
                let mine = mine(UpdateRule::Muon);
                Muon::new(muon, &config.policy, (params, tunings), &mine, device)
            })
            .transpose()?;
        let mut slots = Vec::with_capacity(params.len());
        for ((param, &rule), tuning) in params.iter_mut().zip(rules).zip(tunings) {
            let state = match (rule, &muon) {
                (UpdateRule::Muon, Some(muon)) => State::Muon(muon.new_state(param)?),
                _ => State::Adamw(AdamwState::new(param.master_or_weight())?),
            };
            let low = masters::adopt(param, config.masters)?;
            let (name, shape, frozen) = (param.name.clone(), param.weight.size(), tuning.frozen);
            slots.push(Slot { name, shape, low, state, frozen });
        }
        let clips: Vec<bool> = rules.iter().map(|rule| clips(config.clip, *rule)).collect();
        let verdict = Verdict::new(config.clip, &clips, device)?;
        let lr_factor = upload(&[1.0], device)?.f_get(0).during("learning rate")?;
        Ok(Self { config, slots, adamw, muon, verdict, lr_factor, skipped: 0 })
    }

    /// The schedule's factor on every learning rate, from the next step on; 1 at first. It is not
    /// captured with a step: set it before each replay.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn set_lr_factor(&mut self, factor: f64) -> Result<()> {
        let _ = self.lr_factor.f_fill_(factor).during("learning rate")?;
        Ok(())
    }

    /// One step: `grads[i]` is that of `params[i]`, undefined where it has none; then the
    /// parameter stays as it is, without decay. `lr_factor` is the schedule's.
    ///
    /// Gradients that are not finite change nothing; see [`StepReport::skipped`]. It is
    /// [`step_capturable`](Self::step_capturable) with one read of what the device found.
    ///
    /// # Errors
    /// Parameters or gradients other than those of [`Optimizer::new`], and too many skipped
    /// steps in a row.
    pub fn step(
        &mut self,
        params: &mut [Param],
        grads: &[Tensor],
        lr_factor: f64,
    ) -> Result<StepReport> {
        self.step_in(&Solo, params, grads, lr_factor)
    }

    /// [`step`](Self::step) for a rank's part of all parameters: the norm is that of all ranks'
    /// gradients.
    pub(crate) fn step_in(
        &mut self,
        group: &dyn ProcessGroup,
        params: &mut [Param],
        grads: &[Tensor],
        lr_factor: f64,
    ) -> Result<StepReport> {
        self.set_lr_factor(lr_factor)?;
        self.advance(group, params, grads)?;
        let VerdictReport { grad_norm, clip_factor, .. } = self.read_verdict()?;
        if !grad_norm.is_finite() {
            return Ok(StepReport { grad_norm, clip_factor: 1.0, skipped: true });
        }
        let muon_factor = if self.clips_muon() { clip_factor } else { 1.0 };
        let scales = [clip_factor, muon_factor].map(GradScale::Known);
        self.update(params, grads, &scales)?;
        Ok(StepReport { grad_norm, clip_factor, skipped: false })
    }

    /// A step for which the host does not wait, as `capturable` in PyTorch's optimizers: the same
    /// launches whatever the values, so that it can be captured in a graph and replayed. The
    /// learning rate follows [`set_lr_factor`](Self::set_lr_factor). Which steps were skipped is
    /// known after [`sync_counters`](Self::sync_counters).
    ///
    /// # Errors
    /// Parameters or gradients other than those of [`Optimizer::new`], and turns of Muon's layers
    /// on a GPU, where the host would have to know the step.
    pub fn step_capturable(&mut self, params: &mut [Param], grads: &[Tensor]) -> Result<()> {
        let turns = self.config.muon.as_ref().map_or(1, |muon| muon.turns);
        if turns > 1 && self.lr_factor.device() != Device::Cpu {
            let reason = "a captured step is the same for all layers; use compute.execution = \
                          \"eager\"";
            return check("muon.turns", f64::from(turns), false, reason);
        }
        self.advance(&Solo, params, grads)?;
        let scales = [self.verdict.scale(true)?, self.verdict.scale(self.clips_muon())?];
        self.update(params, grads, &scales)
    }

    /// Norm of all gradients of the last step before clipping, FP64 `[]` on the device; not finite
    /// if the step was skipped. The next step writes over it.
    pub fn grad_norm(&self) -> &Tensor {
        &self.verdict.grad_norm
    }

    /// Makes the host know which steps the device skipped. Waits for the device. Not needed after
    /// [`step`](Self::step).
    ///
    /// # Errors
    /// Too many skipped steps in a row since the last call.
    pub fn sync_counters(&mut self) -> Result<()> {
        self.read_verdict().map(drop)
    }

    /// The settings it was made from.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Which parameters stay as they are, so that they need no gradients: those of an undefined
    /// gradient do.
    pub fn frozen(&self) -> Vec<bool> {
        self.slots.iter().map(|slot| slot.frozen).collect()
    }

    /// Steps skipped so far because gradients were not finite, as far as the host knows: see
    /// [`sync_counters`](Self::sync_counters).
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn read_verdict(&mut self) -> Result<VerdictReport> {
        let report = self.verdict.read()?;
        self.skipped = report.skipped;
        if report.most_in_a_row >= self.config.max_skipped_in_a_row {
            return Err(Error::NonFinite { steps: report.most_in_a_row });
        }
        Ok(report)
    }

    /// Makes the scalars of the next step, and counts it.
    fn advance(
        &mut self,
        group: &dyn ProcessGroup,
        params: &[Param],
        grads: &[Tensor],
    ) -> Result<()> {
        let _guard = bert4rs_tensor_core::no_grad_guard();
        self.check_params(params, grads)?;
        self.verdict.judge(group, grads, &self.config.policy)?;
        self.adamw.advance(&self.verdict, &self.lr_factor, grads)?;
        let is_clipped = self.clips_muon();
        if let Some(muon) = &mut self.muon {
            muon.advance(&self.verdict, &self.lr_factor, is_clipped)?;
        }
        Ok(self.verdict.count()?)
    }

    /// Changes all parameters that have a gradient, by the scalars that
    /// [`advance`](Self::advance) made. The scales are on AdamW's and on Muon's gradients.
    fn update(
        &mut self,
        params: &mut [Param],
        grads: &[Tensor],
        [adamw_scale, muon_scale]: &[GradScale; 2],
    ) -> Result<()> {
        let (mut adamw_slots, mut muon_slots) = (Vec::new(), Vec::new());
        for (index, (param, slot)) in params.iter_mut().zip(&mut self.slots).enumerate() {
            let (grad, low) = (&grads[index], slot.low.as_mut());
            match &mut slot.state {
                _ if !grad.defined() => {}
                State::Muon(state) => {
                    muon_slots.push(MuonSlot { index, param, grad, state, low });
                }
                State::Adamw(state) => {
                    adamw_slots.push(AdamwSlot { index, param, grad, state, low });
                }
            }
        }
        self.adamw.step(adamw_slots, adamw_scale)?;
        let Some(muon) = &mut self.muon else { return Ok(()) };
        let turn = match self.config.muon.as_ref().map_or(1, |muon| muon.turns) {
            1 => Turn { turns: 1, taken: 0 },
            turns => Turn { turns, taken: self.verdict.steps_taken()? },
        };
        muon.step(&mut muon_slots, muon_scale, turn)
    }

    /// Whether clipping acts on Muon's gradients.
    fn clips_muon(&self) -> bool {
        self.config.clip.is_some_and(|clip| clip.scope == ClipScope::All)
    }

    fn check_params(&self, params: &[Param], grads: &[Tensor]) -> Result<()> {
        let differs =
            |name: &str, reason: String| Err(Error::Parameter { name: name.to_owned(), reason });
        let (count, slots) = (params.len(), self.slots.len());
        if count != slots || grads.len() != slots {
            let found = format!("{count} parameters and {} gradients for {slots}", grads.len());
            return differs("(all)", found);
        }
        for ((param, grad), slot) in params.iter().zip(grads).zip(&self.slots) {
            if param.name != slot.name {
                return differs(&param.name, format!("stands where {} stood", slot.name));
            }
            if grad.defined() && grad.size() != slot.shape {
                let (found, expected) = (grad.size(), &slot.shape);
                return differs(&param.name, format!("gradient of {found:?}, weight {expected:?}"));
            }
        }
        Ok(())
    }

    /// Everything that a later run needs to go on exactly as this one would, by the names of
    /// PyTorch and of the authors of Muon and NorMuon: `<parameter>.exp_avg`,
    /// `<parameter>.momentum_buffer` and so on. All but the counts of steps share memory with the
    /// optimizer's.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::from([(COUNTERS.to_owned(), self.verdict.counters()?)]);
        for (index, slot) in self.slots.iter().enumerate() {
            let mut put =
                |what: &str, tensor| state.insert(format!("{}.{what}", slot.name), tensor);
            match &slot.state {
                State::Adamw(adamw) => {
                    put("exp_avg", adamw.exp_avg.shallow_clone());
                    put("exp_avg_sq", adamw.exp_avg_sq.shallow_clone());
                    put(STEP, self.adamw.steps(index)?.f_to_kind(Kind::Int64).during(STEP)?);
                }
                State::Muon(muon) => {
                    put("momentum_buffer", muon.momentum_buffer.shallow_clone());
                    for (name, buffer) in muon.second_momentum_buffers() {
                        put(&name, buffer.shallow_clone());
                    }
                }
            }
            if let Some(low) = &slot.low {
                put(BF16_RESIDUAL, low.shallow_clone());
            }
        }
        Ok(state)
    }

    /// All memory that a step reads or changes beside parameters and gradients: what a captured
    /// step must own.
    pub fn tensors(&self) -> Vec<&Tensor> {
        let mut tensors = vec![&self.lr_factor];
        tensors.extend(self.verdict.tensors());
        tensors.extend(self.adamw.tensors());
        tensors.extend(self.muon.iter().flat_map(Muon::tensors));
        for slot in &self.slots {
            tensors.extend(&slot.low);
            match &slot.state {
                State::Adamw(adamw) => tensors.extend([&adamw.exp_avg, &adamw.exp_avg_sq]),
                State::Muon(muon) => {
                    tensors.push(&muon.momentum_buffer);
                    tensors.extend(muon.second_momentum_buffers().map(|(_, buffer)| buffer));
                }
            }
        }
        tensors
    }

    /// Takes over what [`Optimizer::state`] returned, in whatever order the parameters were
    /// then. The weights themselves are the caller's to restore.
    ///
    /// # Errors
    /// A name too many or too few, another shape or dtype. Nothing has been changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let own = self.state()?;
        for (name, tensor) in &own {
            let refuse = |reason| Err(Error::State { path: None, name: name.clone(), reason });
            let Some(saved) = state.get(name) else {
                return refuse("is missing".to_owned());
            };
            let (found, expected) = (form(saved), form(tensor));
            if found != expected {
                return refuse(format!("is {found}, expected {expected}"));
            }
        }
        if let Some(name) = state.keys().find(|name| !own.contains_key(*name)) {
            let reason = "belongs to no parameter, or to another rule".to_owned();
            return Err(Error::State { path: None, name: name.clone(), reason });
        }
        let _guard = bert4rs_tensor_core::no_grad_guard();
        for (name, mut tensor) in own {
            tensor.f_copy_(&state[&name]).during(&name)?;
        }
        self.verdict.load_counters(&state[COUNTERS])?;
        for (index, slot) in self.slots.iter().enumerate() {
            if let State::Adamw(_) = slot.state {
                let step = &state[&format!("{}.{STEP}", slot.name)];
                self.adamw.steps(index)?.f_copy_(step).during(STEP)?;
            }
        }
        self.skipped = self.verdict.read()?.skipped;
        Ok(())
    }

    /// Writes [`Optimizer::state`] to a safetensors file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let state = self.state()?;
        let tensors: Vec<_> = state.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        Ok(safetensors::save(path, &tensors, None)?)
    }

    /// Reads what [`Optimizer::save`] wrote.
    ///
    /// # Errors
    /// As of [`Optimizer::load_state`]; the file is named.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        self.load_state(&safetensors::load(path)?).map_err(|error| match error {
            Error::State { name, reason, .. } => {
                Error::State { path: Some(path.to_owned()), name, reason }
            }
            other => other,
        })
    }
}

/// Whether the gradient of a parameter of `rule` counts for the norm by which `clip` clips.
fn clips(clip: Option<ClipConfig>, rule: UpdateRule) -> bool {
    rule == UpdateRule::Adamw || clip.is_some_and(|clip| clip.scope == ClipScope::All)
}

/// Dtype and shape, as in errors.
fn form(tensor: &Tensor) -> String {
    let kind: Kind = tensor.kind();
    format!("{kind:?} {:?}", tensor.size())
}
