//! The optimizer of a model: the only loop over parameters.

use std::collections::BTreeMap;
use std::path::Path;

use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Kind, Tensor, safetensors};

use crate::adamw::{Adamw, AdamwSlot, AdamwState};
use crate::clip;
use crate::config::{ClipScope, OptimizerConfig};
use crate::error::{Error, Result};
use crate::group::{self, Rule};
use crate::masters;
use crate::muon::{Muon, MuonSlot, MuonState};

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
    /// [`Masters::LowBits`](crate::config::Masters::LowBits) FP32 masters are taken out of them.
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
                _ => State::Adamw(AdamwState::new(param.exact())?),
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
        let (mut adamw_slots, mut muon_slots) = (Vec::new(), Vec::new());
        for ((param, grad), slot) in params.iter_mut().zip(grads).zip(&mut self.slots) {
            let low = slot.low.as_mut();
            match &mut slot.state {
                _ if !grad.defined() => {}
                State::Adamw(state) => adamw_slots.push(AdamwSlot { param, grad, state, low }),
                State::Muon(state) => muon_slots.push(MuonSlot { param, grad, state, low }),
            }
        }
        self.adamw.step(adamw_slots, lr_factor, clip_factor)?;
        if let Some(muon) = &mut self.muon {
            muon.step(&mut muon_slots, self.steps, lr_factor, muon_scale)?;
        }
        self.skipped_in_a_row = 0;
        self.steps += 1;
        Ok(StepReport { grad_norm, clip_factor, skipped: false })
    }

    /// Factors on the gradients of AdamW's and of Muon's parameters.
    fn clip_factors(&self, sums: &[f64]) -> (f64, f64) {
        let Some(clip) = self.config.clip else { return (1.0, 1.0) };
        let counts = |slot: &Slot| match (clip.scope, &slot.state) {
            (ClipScope::All, _) | (_, State::Adamw(_)) => true,
            (ClipScope::Adamw, State::Muon(_)) => false,
        };
        let sum: f64 =
            self.slots.iter().zip(sums).filter(|(slot, _)| counts(slot)).map(|(_, sum)| sum).sum();
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
                put("low_bits", low.shallow_clone());
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
