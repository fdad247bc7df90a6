//! What a trainer tells of itself.

use std::time::Duration;

use bert4rs_optim::Optimizer;
use bert4rs_tensor_core::distributed::ProcessGroup;
use bert4rs_tensor_core::param::ParamStore;

use super::Trainer;
use super::options::TrainOptions;
use crate::captured_steps::{CaptureUsage, CapturedSteps};
use crate::checkpoint::Checkpointer;
use crate::distributed::agree_on;
use crate::error::Result;
use crate::metrics::Meter;
use crate::task::Task;

impl Trainer {
    /// Time that training has taken, in this process and those before.
    pub(crate) fn trained(&self) -> Duration {
        self.trained_before + self.began.elapsed()
    }

    /// The same in seconds as all ranks take it: that of the one which has trained longest.
    pub(super) fn agreed_time(&self) -> Result<f64> {
        let own = i64::try_from(self.trained().as_nanos()).unwrap_or(i64::MAX);
        let [longest] = agree_on(&self.work.group, [own])?;
        Ok(Duration::from_nanos(longest.unsigned_abs()).as_secs_f64())
    }

    /// Why training ended before its last step, if it did of itself.
    pub fn ended_early(&self) -> Option<&str> {
        self.ended_early.as_deref()
    }

    /// Batches that a step learns from, of all ranks.
    pub fn batches_per_step(&self) -> u64 {
        u64::from(self.options.accumulate) * self.work.group.size() as u64
    }

    /// How the loop runs.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// What became of steps that could be captured; absent where the host looks at each.
    pub fn capture_usage(&self) -> Option<CaptureUsage> {
        self.captured.as_ref().map(CapturedSteps::usage)
    }

    /// Time of the whole run, where it is one.
    pub fn max_time(&self) -> Option<Duration> {
        self.options.max_time
    }

    /// Steps of the whole run; of one whose length is a time, as many as there can be.
    pub fn max_steps(&self) -> u64 {
        self.options.max_steps
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Time that training waited for checkpoints.
    pub fn paused(&self) -> Duration {
        self.checkpointer.as_ref().map_or(Duration::ZERO, Checkpointer::paused)
    }

    /// Times that the run went back to a checkpoint.
    pub fn rollbacks(&self) -> u64 {
        self.recovery.left_out().len() as u64
    }

    /// The model and its objective.
    pub fn task(&self) -> &dyn Task {
        &*self.work.task
    }

    /// The model's parameters.
    pub fn params(&self) -> &ParamStore {
        &self.work.params
    }

    /// The optimizer: where ranks divide it, this one's part.
    pub fn optimizer(&self) -> &Optimizer {
        self.work.optimizer.local()
    }

    /// Bytes of this rank's weights, gradients, masters and optimizer state.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn parameter_bytes(&self) -> Result<u64> {
        Ok(self.work.optimizer.allocated_bytes(&self.work.params.params())?)
    }

    /// Gives all parameters, and averages of them, their exact values, which ranks may have
    /// divided, to save the model after the last step.
    ///
    /// # Errors
    /// Those of the group.
    pub fn gather_weights(&mut self) -> Result<()> {
        self.last_average = self.whole_averages()?;
        let masters = self.work.optimizer.gather_masters(&self.work.group)?;
        for (param, master) in self.work.params.params_mut().iter_mut().zip(masters) {
            param.master = Some(master);
        }
        Ok(())
    }

    /// What was measured so far.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Time spent waiting for batches.
    pub fn waited(&self) -> Duration {
        self.loader.waited()
    }
}
