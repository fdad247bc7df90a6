//! Checkpoints of the loop, and going on from one.

use std::path::Path;
use std::time::Duration;

use bert4rs_data::Fingerprint;
use bert4rs_tensor_core::Error as Core;
use bert4rs_tensor_core::distributed::ProcessGroup;

use super::Trainer;
use crate::best_weights::BestWeights;
use crate::checkpoint::{Checkpoint, Checkpointer, RunProgress, TrainState};
use crate::error::{Error, Result};
use crate::hook::Control;
use crate::metrics::StepRecord;
use crate::train_step::TrainStep;

impl Trainer {
    /// Goes on where `state` was saved; `records` are those of all steps until then.
    ///
    /// # Errors
    /// The state of another model or optimizer, one that is damaged, and one of steps that learned
    /// from more or fewer batches.
    pub fn go_on(&mut self, state: &TrainState, records: &[StepRecord]) -> Result<()> {
        let (before, now) = (state.progress.batches_per_step, self.batches_per_step());
        if before.is_some_and(|before| before != now) {
            return Err(Error::Config {
                origin: "checkpoint".into(),
                key: "train.accumulate".into(),
                reason: format!(
                    "a step learned from {} batches, and {} processes with train.accumulate {} \
                     make it {now}; choose them so that their product stays",
                    before.unwrap_or_default(),
                    self.work.group.size(),
                    self.options.accumulate
                ),
            });
        }
        let fingerprint = fingerprint(&state.progress)?;
        self.meter.go_on(records, fingerprint);
        self.restore(state)
    }

    /// All but what was measured.
    pub(super) fn restore(&mut self, state: &TrainState) -> Result<()> {
        let progress = &state.progress;
        self.loader.seek(progress.position)?;
        self.steps = progress.step;
        self.best = progress.best;
        if let Some(best) = &mut self.best_weights {
            best.go_on(progress.best_score, &state.best);
        }
        self.trained_before = Duration::try_from_secs_f64(progress.trained_s).unwrap_or_default();
        self.recovery.restore(&progress.incidents, self.meter.losses());
        let TrainStep { params, optimizer, group, .. } = &mut self.work;
        if let Some(average) = &mut self.average {
            average.restore(&state.average, &params.params(), optimizer)?;
        }
        state.restore(params, optimizer, group.rank())
    }

    /// Starts writing a checkpoint. The metrics until now are written before.
    pub(super) fn checkpoint(&mut self, control: &mut Control) -> Result<()> {
        let flushed = self.flush();
        let progress = RunProgress {
            step: self.steps,
            position: self.loader.position(),
            fingerprint: self.meter.fingerprint().to_hex(),
            batches_per_step: Some(self.batches_per_step()),
            held_out_loss: self.held_out_loss,
            dataset: String::new(),
            // Only where it decides anything: the same run otherwise leaves the same bytes.
            trained_s: self.options.max_time.map_or(0.0, |_| self.trained().as_secs_f64()),
            best: self.best,
            best_score: self.best_weights.as_ref().map(BestWeights::best).unwrap_or_default(),
            incidents: self.recovery.left_out().to_vec(),
        };
        // What was being written is told of first: the run may move then.
        let began = std::time::Instant::now();
        let before = self.checkpointer.as_mut().and_then(|checkpointer| checkpointer.finish());
        self.checkpoint_ended(before, control)?;
        let TrainStep { params, optimizer, group, .. } = &self.work;
        let state = (optimizer, self.average.as_ref(), self.best_weights.as_ref());
        let capture = || TrainState::capture(progress, params, state, group);
        // One rank writes, and all give it their parts, wherever they go.
        match (&mut self.checkpointer, flushed) {
            (Some(checkpointer), Ok(())) => checkpointer.begin(began, capture),
            (_, flushed) => {
                if group.is_shared() {
                    drop(capture()?);
                }
                // Steps without their metrics can't be gone on from.
                self.checkpoint_ended(flushed.err().map(Err), control)
            }
        }
    }

    /// Tells of a checkpoint that has been written meanwhile.
    pub(super) fn poll_checkpoint(&mut self, control: &mut Control) -> Result<()> {
        let ended = self.checkpointer.as_mut().and_then(|checkpointer| checkpointer.poll());
        self.checkpoint_ended(ended, control)
    }

    /// Tells of a checkpoint that was being written. One that could not be is a reason to stop only
    /// where that was asked for.
    pub(super) fn checkpoint_ended(
        &mut self,
        ended: Option<Result<Checkpoint>>,
        control: &mut Control,
    ) -> Result<()> {
        match ended {
            None => Ok(()),
            Some(Ok(checkpoint)) => {
                self.hooks
                    .iter_mut()
                    .try_for_each(|hook| hook.on_checkpoint(&checkpoint, control))?;
                if let Some(folder) = control.moved_to.take() {
                    self.moved(&folder);
                }
                Ok(())
            }
            Some(Err(error)) => {
                let must = |checkpointer: &Checkpointer| checkpointer.must_write();
                if self.checkpointer.as_ref().is_some_and(must) {
                    return Err(error);
                }
                self.warn(&format!("checkpoint not written: {error}; training goes on"));
                Ok(())
            }
        }
    }

    /// The run's folder has another place now.
    fn moved(&mut self, folder: &Path) {
        if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.moved(folder);
        }
        self.sinks.iter_mut().for_each(|sink| sink.moved(folder));
    }

    /// After the last step: what is being written is waited for.
    pub(super) fn end(&mut self, control: &mut Control) -> Result<()> {
        let ended = self.checkpointer.as_mut().and_then(|checkpointer| checkpointer.finish());
        self.checkpoint_ended(ended, control)?;
        if let Some(why) = &self.ended_early {
            let text = format!("ended early after step {}: {why}", self.steps);
            self.warn(&text);
        }
        match self.flush() {
            // The model is worth more; its export makes room, and metrics are tried again then.
            Err(error) if error.is_full_disk() => self.warn(&error.to_string()),
            outcome => outcome?,
        }
        self.hooks.iter_mut().try_for_each(|hook| hook.on_end())
    }

    /// Writes what waits in the sinks.
    ///
    /// # Errors
    /// What keeps one of them from writing.
    pub fn flush(&mut self) -> Result<()> {
        self.sinks.iter_mut().try_for_each(|sink| sink.flush())
    }
}

/// The hash of all batches until `progress`.
pub(super) fn fingerprint(progress: &RunProgress) -> Result<Fingerprint> {
    let text = &progress.fingerprint;
    Fingerprint::from_hex(text).ok_or_else(|| {
        let what = format!("the fingerprint {text:?}");
        Core::Unsupported { what, reason: "expected 64 hexadecimal digits".into() }.into()
    })
}
