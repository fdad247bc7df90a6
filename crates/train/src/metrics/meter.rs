//! Times steps, and reads their losses from the device only when asked to.

use std::time::{Duration, Instant};

use bert4rs_data::Fingerprint;
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::load::{LoadMeter, MachineLoad};

use super::{StepOutcome, StepRecord};
use crate::batch::BatchSize;
use crate::distributed::RankTimes;
use crate::error::Result;

/// A step whose loss and norm are still on the device.
#[derive(Debug)]
struct PendingStep {
    record: StepRecord,
    loss: Tensor,
    grad_norm: Tensor,
}

/// Times steps, and reads their losses from the device only when asked to.
#[derive(Debug)]
pub struct Meter {
    pending: Vec<PendingStep>,
    losses: Vec<f64>,
    steps: Vec<(Duration, BatchSize)>,
    /// Of the steps of this process alone: those before may have had another number of ranks.
    ranks: Vec<RankTimes>,
    step_began: Instant,
    /// When the first and the last step ended, since the process began.
    ended_at: Option<(Duration, Duration)>,
    fingerprint: Fingerprint,
    load: LoadMeter,
}

impl Meter {
    /// A meter that has seen nothing.
    pub fn new() -> Self {
        Self {
            pending: Vec::new(),
            losses: Vec::new(),
            steps: Vec::new(),
            ranks: Vec::new(),
            step_began: Instant::now(),
            ended_at: None,
            fingerprint: Fingerprint::default(),
            load: LoadMeter::start(),
        }
    }

    /// What else the machine did since the meter was made.
    pub fn machine_load(&self) -> Option<MachineLoad> {
        self.load.read()
    }

    /// Starts the clock of a step.
    pub fn begin_step(&mut self) {
        self.step_began = Instant::now();
    }

    /// Ends the step and keeps its outcome.
    pub fn end_step(&mut self, step: u64, outcome: &StepOutcome, since_start: Duration) {
        let time = self.step_began.elapsed();
        let (first, _) = self.ended_at.unwrap_or((since_start, since_start));
        self.ended_at = Some((first, since_start));
        outcome.digests.iter().for_each(|digest| self.fingerprint.add(*digest));
        self.steps.push((time, outcome.size));
        self.ranks.extend(outcome.ranks);
        let resident = bert4rs_tensor_core::memory::process().map_or(0, |memory| memory.resident);
        let record = StepRecord {
            step,
            loss: f64::NAN,
            tokens_per_s: outcome.size.tokens as f64 / time.as_secs_f64(),
            tokens: outcome.size.tokens,
            positions: outcome.size.positions,
            lr: outcome.lr,
            muon_lr: outcome.muon_lr,
            grad_norm: f64::NAN,
            step_time_s: time.as_secs_f64(),
            time_s: since_start.as_secs_f64(),
            data_wait_s: outcome.waited.as_secs_f64(),
            held_out: None,
            update_ratio: outcome.update_ratio.clone(),
            trouble: Vec::new(),
            corpora: None,
            resident_bytes: resident,
            device_bytes: outcome.device_bytes,
            ranks: outcome.ranks,
        };
        let [loss, grad_norm] =
            [&outcome.loss, &outcome.grad_norm].map(|scalar| scalar.shallow_clone());
        self.pending.push(PendingStep { record, loss, grad_norm });
    }

    /// Goes on after `records`, whose batches have this fingerprint.
    pub fn go_on(&mut self, records: &[StepRecord], fingerprint: Fingerprint) {
        let size = |record: &StepRecord| BatchSize {
            tokens: record.tokens,
            positions: record.positions,
            ..BatchSize::default()
        };
        let time = |record: &StepRecord| Duration::try_from_secs_f64(record.step_time_s);
        self.steps = records.iter().map(|r| (time(r).unwrap_or_default(), size(r))).collect();
        self.losses = records.iter().map(|record| record.loss).collect();
        self.fingerprint = fingerprint;
    }

    /// Forgets all steps after `step`, whose batches have this fingerprint with those before.
    pub(crate) fn rewind(&mut self, step: u64, fingerprint: Fingerprint) {
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        self.pending.clear();
        self.steps.truncate(step);
        self.losses.truncate(step);
        self.fingerprint = fingerprint;
    }

    /// The losses of all steps that were flushed.
    pub(crate) fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// Reads the losses of the steps since the last call, for which it waits for the device: the
    /// time that this takes belongs to these steps, to each the same.
    pub fn flush(&mut self) -> Result<Vec<StepRecord>> {
        let began = Instant::now();
        let pending = std::mem::take(&mut self.pending);
        let mut records = Vec::with_capacity(pending.len());
        for PendingStep { mut record, loss, grad_norm } in pending {
            record.loss = loss.f_double_value(&[]).during("read the loss")?;
            record.grad_norm = grad_norm.f_double_value(&[]).during("read a norm")?;
            self.losses.push(record.loss);
            records.push(record);
        }
        let waited = began.elapsed();
        if let Some((_, last)) = &mut self.ended_at {
            *last += waited;
        }
        let share = waited / records.len().max(1) as u32;
        let first = self.steps.len().saturating_sub(records.len());
        for (record, (time, size)) in records.iter_mut().zip(&mut self.steps[first..]) {
            *time += share;
            record.step_time_s = time.as_secs_f64();
            record.tokens_per_s = size.tokens as f64 / time.as_secs_f64();
        }
        Ok(records)
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps.len() as u64
    }

    /// When the first step ended, since the process began.
    pub fn first_step_at(&self) -> Duration {
        self.ended_at.unwrap_or_default().0
    }

    /// When the last step ended, with the wait for its loss.
    pub fn last_step_at(&self) -> Duration {
        self.ended_at.unwrap_or_default().1
    }

    /// A hash of all batches so far, in their order.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// What all steps learned from.
    pub fn seen(&self) -> BatchSize {
        let mut seen = BatchSize::default();
        self.steps.iter().for_each(|(_, size)| seen += *size);
        seen
    }

    /// Real tokens a second over the latter steps.
    ///
    /// The first tenth, at least one step and at most ten, is left out: caches, buffers and
    /// kernels are being set up.
    pub fn steady_tokens_per_s(&self) -> f64 {
        let steps = self.steps.len();
        let skipped = (steps / 10).clamp(1, 10).min(steps.saturating_sub(1));
        let steady = &self.steps[skipped..];
        let time: Duration = steady.iter().map(|(time, _)| time).sum();
        let tokens: u64 = steady.iter().map(|(_, size)| size.tokens).sum();
        tokens as f64 / time.as_secs_f64().max(1e-9)
    }

    /// Mean loss of the last tenth of the flushed steps, at least one, without those that were not
    /// finite and skipped.
    pub fn final_loss(&self) -> f64 {
        let count = self.losses.len().div_ceil(10);
        let last = self.losses[self.losses.len() - count..].iter();
        let (sum, count) = last
            .filter(|loss| loss.is_finite())
            .fold((0.0, 0.0), |(sum, count), loss| (sum + loss, count + 1.0));
        sum / count
    }

    /// What each step since the process began cost in communication; empty for a process alone.
    pub fn ranks(&self) -> &[RankTimes] {
        &self.ranks
    }

    /// Time spent in all steps.
    pub fn time_in_steps(&self) -> Duration {
        self.steps.iter().map(|(time, _)| time).sum()
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}
