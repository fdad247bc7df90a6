//! The optimizer of a model: the only loop over parameters.

use std::collections::BTreeMap;
use std::path::Path;

use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Device, Kind, Tensor, safetensors};

use crate::adamw::{Adamw, AdamwGroup, AdamwSlot, AdamwState};
use crate::clip;
use crate::config::{ClipScope, OptimizerConfig};
use crate::deferred::Deferred;
use crate::error::{Error, Result};
use crate::group::{self, Rule};
use crate::masters;
use crate::muon::{Muon, MuonSlot, MuonState};
use crate::numbers::{AdamwNumbers, GradScale, MuonNumbers};

/// Name of steps taken, steps skipped, and those skipped in a row, as saved.
const COUNTERS: &str = "optimizer.counters";

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
}

#[derive(Debug)]
enum State {
    Adamw(AdamwState),
    Muon(MuonState),
}

impl Slot {
    /// Counts steps.
    fn count(&mut self, steps: u64) {
        if let State::Adamw(state) = &mut self.state {
            state.steps += steps as i64;
        }
    }
}

/// The numbers of one step.
struct Numbers<'a> {
    /// The factor on AdamW's gradients.
    scale: GradScale,
    /// For each group.
    adamw: Vec<AdamwNumbers>,
    group_of: &'a [Option<usize>],
    muon: Option<MuonNumbers>,
}

/// Where the parameters are.
fn device_of(params: &[Param]) -> Device {
    params.first().map_or(Device::Cpu, |param| param.weight.device())
}

/// Rules, states and counters for the parameters of a model.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    slots: Vec<Slot>,
    adamw: Adamw,
    muon: Option<Muon>,
    /// Steps taken, without those skipped.
    steps: u64,
    skipped: u64,
    skipped_in_a_row: u64,
}

impl Optimizer {
    /// An optimizer for `params`, which every later call gets in the same order. With
    /// [`Masters::Bf16Residual`](crate::config::Masters::Bf16Residual) FP32 masters are taken out of them.
    ///
    /// # Errors
    /// Settings that can't act, and weights of low precision without masters.
    pub fn new(config: OptimizerConfig, params: &mut [Param]) -> Result<Self> {
        config.validate()?;
        let rules = group::partition(params, config.muon.is_some(), &config.assignments)?;
        let mine = |mine: Rule| rules.iter().map(|rule| *rule == mine).collect::<Vec<_>>();
        let adamw = Adamw::new(&config.adamw, params, &mine(Rule::Adamw))?;
        let muon = config.muon.as_ref();
        let muon = muon.map(|muon| Muon::new(muon, params, &mine(Rule::Muon))).transpose()?;
        let mut slots = Vec::with_capacity(params.len());
        for (param, rule) in params.iter_mut().zip(rules) {
            let state = match (rule, &muon) {
                (Rule::Muon, Some(muon)) => State::Muon(muon.new_state(param)?),
                _ => State::Adamw(AdamwState::new(param.master_or_weight())?),
            };
            let low = masters::adopt(param, config.masters)?;
            slots.push(Slot { name: param.name.clone(), shape: param.weight.size(), low, state });
        }
        let (steps, skipped, skipped_in_a_row) = (0, 0, 0);
        Ok(Self { config, slots, adamw, muon, steps, skipped, skipped_in_a_row })
    }

    /// One step: `grads[i]` is that of `params[i]`, undefined where it has none; then the
    /// parameter stays as it is, without decay. `lr_factor` is the schedule's.
    ///
    /// Gradients that are not finite change nothing; see [`StepReport::skipped`].
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
        self.check_params(params, grads)?;
        let sums = clip::sums_of_squares(grads)?;
        let grad_norm = sums.iter().sum::<f64>().sqrt();
        if !grad_norm.is_finite() {
            self.count_skipped()?;
            return Ok(StepReport { grad_norm, clip_factor: 1.0, skipped: true });
        }
        let (clip_factor, muon_scale) = self.clip_factors(&sums);
        let device = device_of(params);
        let (groups, group_of) = self.groups(params);
        let adamw = self.adamw.numbers(&groups, (lr_factor, clip_factor), device)?;
        let muon = self.muon.as_ref();
        let muon = muon.map(|muon| muon.numbers(self.steps, (lr_factor, muon_scale), device));
        let numbers = Numbers {
            scale: GradScale::Known(clip_factor),
            adamw,
            group_of: &group_of,
            muon: muon.transpose()?,
        };
        self.update(params, grads, &numbers)?;
        for (slot, _) in self.slots.iter_mut().zip(grads).filter(|(_, grad)| grad.defined()) {
            slot.count(1);
        }
        self.skipped_in_a_row = 0;
        self.steps += 1;
        Ok(StepReport { grad_norm, clip_factor, skipped: false })
    }

    /// Begins steps by [`step_deferred`](Self::step_deferred).
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn defer(&self, params: &[Param]) -> Result<Deferred> {
        let counts: Vec<f64> =
            self.slots.iter().map(|slot| f64::from(u8::from(self.clips(slot)))).collect();
        let (groups, group_of) = self.groups(params);
        let counters = (self.steps, self.skipped_in_a_row);
        Deferred::new(device_of(params), (&groups, group_of), &counts, counters)
    }

    /// [`step`](Self::step) without a wait for the device: by the learning rate that
    /// [`Deferred::set_lr_factor`] was told. Which steps are skipped is known after
    /// [`settle`](Self::settle).
    ///
    /// The same work for every step, whatever the numbers: it can be recorded and replayed.
    ///
    /// # Errors
    /// Parameters or gradients other than those of [`Optimizer::new`].
    pub fn step_deferred(
        &mut self,
        params: &mut [Param],
        grads: &[Tensor],
        deferred: &mut Deferred,
    ) -> Result<()> {
        let _guard = bert4rs_tensor_core::no_grad_guard();
        self.check_params(params, grads)?;
        let verdict = deferred.judge(grads, self.config.clip)?;
        let adamw = deferred.adamw(&self.config.adamw, &verdict)?;
        let is_clipped = self.config.clip.is_some_and(|clip| clip.scope == ClipScope::All);
        let muon = self.muon.as_ref();
        let muon = muon.map(|muon| deferred.muon(muon.config(), &verdict, is_clipped));
        let numbers = Numbers {
            scale: verdict.scale(),
            adamw,
            group_of: &deferred.group_of,
            muon: muon.transpose()?,
        };
        self.update(params, grads, &numbers)?;
        for (moved, grad) in deferred.moved.iter_mut().zip(grads) {
            *moved |= grad.defined();
        }
        deferred.count_taken(&verdict)
    }

    /// Takes over what the device counted. Waits for it. To be called before the state is saved,
    /// and before [`step`](Self::step) goes on, after which `deferred` is of no use.
    ///
    /// # Errors
    /// Too many skipped steps in a row.
    pub fn settle(&mut self, deferred: &mut Deferred) -> Result<()> {
        let counters = deferred.read()?;
        let [taken, skipped] = deferred.settled;
        let taken = counters.taken - taken;
        self.steps += taken;
        self.skipped += counters.skipped - skipped;
        self.skipped_in_a_row = counters.in_a_row;
        for (slot, _) in self.slots.iter_mut().zip(&deferred.moved).filter(|(_, moved)| **moved) {
            slot.count(taken);
        }
        deferred.settled = [counters.taken, counters.skipped];
        if counters.most_in_a_row >= self.config.max_skipped_in_a_row {
            return Err(Error::NonFinite { steps: counters.most_in_a_row });
        }
        Ok(())
    }

    /// Changes all parameters that have a gradient.
    fn update(
        &mut self,
        params: &mut [Param],
        grads: &[Tensor],
        numbers: &Numbers<'_>,
    ) -> Result<()> {
        let (mut adamw_slots, mut muon_slots) = (Vec::new(), Vec::new());
        let slots = self.slots.iter_mut().zip(numbers.group_of);
        for ((param, grad), (slot, group)) in params.iter_mut().zip(grads).zip(slots) {
            let low = slot.low.as_mut();
            match (&mut slot.state, group) {
                _ if !grad.defined() => {}
                (State::Muon(state), _) => muon_slots.push(MuonSlot { param, grad, state, low }),
                (State::Adamw(state), group) => {
                    let numbers = &numbers.adamw[group.unwrap_or_default()];
                    adamw_slots.push(AdamwSlot { numbers, param, grad, state, low });
                }
            }
        }
        self.adamw.step(adamw_slots, &numbers.scale)?;
        match (&mut self.muon, &numbers.muon) {
            (Some(muon), Some(numbers)) => muon.step(&mut muon_slots, numbers),
            _ => Ok(()),
        }
    }

    /// AdamW's parameters by what they share, and the group of each.
    fn groups(&self, params: &[Param]) -> (Vec<AdamwGroup>, Vec<Option<usize>>) {
        let mut groups: Vec<AdamwGroup> = Vec::new();
        let mut place = |(param, slot): (&Param, &Slot)| {
            let State::Adamw(state) = &slot.state else { return None };
            let group = self.adamw.group_of(param, state.steps);
            let place = groups.iter().position(|other| *other == group);
            Some(place.unwrap_or_else(|| {
                groups.push(group);
                groups.len() - 1
            }))
        };
        let group_of = params.iter().zip(&self.slots).map(&mut place).collect();
        (groups, group_of)
    }

    /// Whether the norm of a parameter's gradient counts for clipping.
    fn clips(&self, slot: &Slot) -> bool {
        let scope = self.config.clip.map_or(ClipScope::All, |clip| clip.scope);
        scope == ClipScope::All || matches!(slot.state, State::Adamw(_))
    }

    /// Factors on the gradients of AdamW's and of Muon's parameters.
    fn clip_factors(&self, sums: &[f64]) -> (f64, f64) {
        let Some(clip) = self.config.clip else { return (1.0, 1.0) };
        let counted = self.slots.iter().zip(sums).filter(|(slot, _)| self.clips(slot));
        let sum: f64 = counted.map(|(_, sum)| sum).sum();
        let factor = clip::factor(sum.sqrt(), clip.max_norm);
        (factor, if clip.scope == ClipScope::All { factor } else { 1.0 })
    }

    /// Steps skipped so far because gradients were not finite.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn count_skipped(&mut self) -> Result<()> {
        self.skipped += 1;
        self.skipped_in_a_row += 1;
        if self.skipped_in_a_row >= self.config.max_skipped_in_a_row {
            return Err(Error::NonFinite { steps: self.skipped_in_a_row });
        }
        Ok(())
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

    /// Everything that a later run needs to go on exactly as this one would, under stable names:
    /// `<parameter>.exp_avg`, `<parameter>.momentum` and so on. The tensors share memory with the
    /// optimizer's.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        let counters = [self.steps as i64, self.skipped as i64, self.skipped_in_a_row as i64];
        state.insert(COUNTERS.to_owned(), Tensor::from_slice(&counters));
        for slot in &self.slots {
            let mut put =
                |what: &str, tensor| state.insert(format!("{}.{what}", slot.name), tensor);
            match &slot.state {
                State::Adamw(adamw) => {
                    put("exp_avg", adamw.moment1.shallow_clone());
                    put("exp_avg_sq", adamw.moment2.shallow_clone());
                    put("step", Tensor::from(adamw.steps));
                }
                State::Muon(muon) => {
                    put("momentum", muon.momentum.shallow_clone());
                    for (block, stats) in muon.stats.iter().enumerate() {
                        put(&format!("neuron_mean_square.{block}"), stats.shallow_clone());
                    }
                }
            }
            if let Some(low) = &slot.low {
                put("bf16_residual", low.shallow_clone());
            }
        }
        state
    }

    /// Takes over what [`Optimizer::state`] returned, in whatever order the parameters were
    /// then. The weights themselves are the caller's to restore.
    ///
    /// # Errors
    /// A name too many or too few, another shape or dtype. Nothing has been changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let own = self.state();
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
        let integers = |name: &str| {
            Vec::<i64>::try_from(state[name].view(-1))
                .map_err(|error| bert4rs_tensor_core::Error::torch(name, error))
        };
        for (name, mut tensor) in own {
            tensor.copy_(&state[&name]);
        }
        let counters = integers(COUNTERS)?;
        self.steps = counters[0] as u64;
        (self.skipped, self.skipped_in_a_row) = (counters[1] as u64, counters[2] as u64);
        for slot in &mut self.slots {
            if let State::Adamw(adamw) = &mut slot.state {
                adamw.steps = integers(&format!("{}.step", slot.name))?[0];
            }
        }
        Ok(())
    }

    /// Writes [`Optimizer::state`] to a safetensors file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let state = self.state();
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

/// Dtype and shape, as in errors.
fn form(tensor: &Tensor) -> String {
    let kind: Kind = tensor.kind();
    format!("{kind:?} {:?}", tensor.size())
}
