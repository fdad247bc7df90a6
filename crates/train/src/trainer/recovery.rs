//! Losses that are trouble, and going back to where they were not.

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::error::Context;

use super::Trainer;
use super::saving::fingerprint;
use crate::captured_steps::CapturedSteps;
use crate::checkpoint::newest_whole;
use crate::distributed::{MeteredGroup, agree_on, share_state, sum_over_ranks};
use crate::error::{Error, Result};
use crate::hook::Control;
use crate::metrics::StepRecord;
use crate::trouble::{Incident, Remedy, TroubleKind, TroubleWatch};

/// A run that must go back more often has another problem than its batches.
const MOST_ROLLBACKS: usize = 20;

/// What the loop knows of trouble.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    pub(super) watch: TroubleWatch,
    /// Steps whose batches are left out, in the order in which they were met.
    left_out: Vec<Incident>,
    /// Steps that changed nothing, and are not recorded yet.
    skipped: Vec<Incident>,
    /// The number of the first batch of each step that is not recorded yet.
    positions: Vec<(u64, u64)>,
}

impl Recovery {
    pub(super) fn left_out(&self) -> &[Incident] {
        &self.left_out
    }

    /// Whether a step may change the weights, as its loss tells, of which each of `group` has its
    /// part. Reads it only where it must.
    pub(super) fn accepts(
        &mut self,
        step: u64,
        loss: &Tensor,
        group: &MeteredGroup,
    ) -> Result<bool> {
        if !self.watch.policy.skips_spikes() {
            return Ok(true);
        }
        let own = loss.f_double_value(&[]).during("read the loss")?;
        let loss = sum_over_ranks(group, &[own])?.iter().sum();
        let kind = self.watch.judge(loss);
        if kind != Some(TroubleKind::Spike) {
            return Ok(true);
        }
        self.skipped.push(incident(step, TroubleKind::Spike, loss, Remedy::Skip));
        Ok(false)
    }

    pub(super) fn restore(&mut self, left_out: &[Incident], losses: &[f64]) {
        self.left_out = left_out.to_vec();
        self.skipped.clear();
        self.positions.clear();
        self.watch.refill(losses);
    }
}

fn incident(step: u64, kind: TroubleKind, loss: f64, remedy: Remedy) -> Incident {
    Incident { step, kind, loss, remedy, left_out: None, back_to: None }
}

impl Trainer {
    /// Passes over batches that were trouble, and notes which ones the next step has.
    pub(super) fn leave_out_batches(&mut self) -> Result<()> {
        let is_left_out = |position: u64, all: &[Incident]| {
            all.iter().any(|incident| incident.left_out == Some(position))
        };
        while is_left_out(self.loader.position(), self.recovery.left_out()) {
            self.loader.seek(self.loader.position() + self.batches_per_step())?;
        }
        self.recovery.positions.push((self.steps + 1, self.loader.position()));
        Ok(())
    }

    /// Looks at the losses of `records`, and notes in them what happened. The first that the run
    /// can't go on from is the result; records after it are dropped.
    pub(super) fn judge(&mut self, records: &mut Vec<StepRecord>) -> Option<Incident> {
        let policy = self.recovery.watch.policy;
        let mut worst = None;
        for (index, record) in records.iter_mut().enumerate() {
            let of_step = |incident: &&Incident| incident.step == record.step;
            let known = self.recovery.left_out.iter().chain(&self.recovery.skipped);
            let mut trouble: Vec<Incident> = known.filter(of_step).cloned().collect();
            let kind = match policy.skips_spikes() {
                // Judged before it could change anything.
                true => (!record.loss.is_finite()).then_some(TroubleKind::Nan),
                false => self.recovery.watch.judge(record.loss),
            };
            let met =
                kind.map(|kind| incident(record.step, kind, record.loss, policy.remedy(kind)));
            if let Some(met) = met {
                if met.remedy != Remedy::Skip {
                    worst = Some((index, met));
                    break;
                }
                trouble.push(met);
            }
            record.trouble = trouble;
        }
        let step_of = |position: &(u64, u64), step: u64| position.0 == step;
        let positions = std::mem::take(&mut self.recovery.positions);
        self.recovery.skipped.clear();
        let (index, mut met) = worst?;
        records.truncate(index + 1);
        let first = positions.iter().find(|position| step_of(position, met.step));
        met.left_out = first.map(|(_, position)| *position);
        Some(met)
    }

    /// Whether the run is to go back because of this.
    pub(super) fn goes_back(&self, incident: &Incident) -> Result<bool> {
        let is_remedy = incident.remedy == Remedy::Rollback;
        if !is_remedy || self.recovery.left_out.len() >= MOST_ROLLBACKS {
            return Ok(false);
        }
        // One rank has checkpoints for all.
        let [has_checkpoints] = agree_on(&self.work.group, [self.checkpointer.is_some().into()])?;
        Ok(has_checkpoints > 0)
    }

    /// Goes back to the newest checkpoint, from where on the batches of `incident` are left out.
    pub(super) fn go_back(&mut self, incident: &Incident, control: &mut Control) -> Result<()> {
        let ended = self.checkpointer.as_mut().and_then(|checkpointer| checkpointer.finish());
        self.checkpoint_ended(ended, control)?;
        let saved = match &self.checkpointer {
            Some(checkpointer) => {
                let (checkpoint, damaged) = newest_whole(checkpointer.run())?;
                damaged.iter().for_each(|line| self.warn(line));
                Some((checkpoint.read()?, Vec::new()))
            }
            None => None,
        };
        let Some((state, _)) = share_state(&self.work.group, saved)? else { return Ok(()) };
        let back_to = state.progress.step;
        self.warn(&format!(
            "step {}: {}; back to the checkpoint after step {back_to}, without this step's batches",
            incident.step,
            words(incident)
        ));
        let mut left_out = std::mem::take(&mut self.recovery.left_out);
        left_out.push(Incident { back_to: Some(back_to), ..incident.clone() });
        let trained = self.trained();
        self.sinks.iter_mut().try_for_each(|sink| sink.rewind(back_to))?;
        self.meter.rewind(back_to, fingerprint(&state.progress)?);
        self.restore(&state)?;
        self.recovery.left_out = left_out;
        // Time does not go back.
        (self.trained_before, self.began) = (trained, std::time::Instant::now());
        if let Some(captured) = &mut self.captured {
            // What was captured reads tensors that the checkpoint's have taken the place of.
            *captured = CapturedSteps::new(self.options.execution, self.work.params.device())?;
        }
        Ok(())
    }

    /// The error of a run that can't go on.
    pub(super) fn divergence(&self, incident: &Incident) -> Error {
        let after = match self.recovery.left_out.len() {
            0 => String::new(),
            count => format!(", after going back {count} times"),
        };
        let reason = format!(
            "{}{after}; try a lower optimizer.adamw.lr or a longer schedule.warmup",
            words(incident)
        );
        Error::Diverged { step: incident.step, reason }
    }
}

/// What happened.
fn words(incident: &Incident) -> String {
    match incident.kind {
        TroubleKind::Nan => format!("the loss is {}", incident.loss),
        TroubleKind::Spike => {
            format!("the loss is {:.4}, far above those before it", incident.loss)
        }
    }
}
