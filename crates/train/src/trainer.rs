//! The loop.
//!
//! | module | holds |
//! | --- | --- |
//! | here | the loop |
//! | `options` | how it runs |
//! | `building` | a trainer from its parts |
//! | `stepping` | one step |
//! | `reporting` | losses read, sinks filled, held-out text measured |
//! | `state` | what a trainer tells of itself |
//! | `saving` | checkpoints, and going on from one |
//! | `recovery` | losses that are trouble, and going back |

mod building;
mod options;
mod recovery;
mod reporting;
mod saving;
mod state;
mod stepping;

use std::time::{Duration, Instant};

use bert4rs_optim::schedule::Schedule;
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::copy_stream::CopyStream;
use bert4rs_tensor_core::distributed::ProcessGroup;

use crate::average::WeightAverage;
use crate::best_weights::BestWeights;
use crate::captured_steps::CapturedSteps;
use crate::checkpoint::Checkpointer;
use crate::clock::ProcessClock;
use crate::distributed;
use crate::early_stopping::{BestLoss, Patience};
use crate::error::Result;
use crate::evaluation::Measure;
use crate::hook::{Control, Hook, StepContext};
use crate::loader::Loader;
use crate::metrics::{Meter, MetricSink, StepOutcome};
use crate::train_step::TrainStep;
pub use options::TrainOptions;
use recovery::Recovery;

/// Trains a model.
pub struct Trainer {
    work: TrainStep,
    loader: Box<dyn Loader>,
    schedule: Schedule,
    options: TrainOptions,
    /// Absent where the host looks at each step.
    captured: Option<CapturedSteps>,
    /// Copies batches to a GPU while it computes.
    copy_stream: Option<CopyStream>,
    validation: Option<Box<dyn Measure>>,
    checkpointer: Option<Checkpointer>,
    hooks: Vec<Box<dyn Hook>>,
    sinks: Vec<Box<dyn MetricSink>>,
    meter: Meter,
    clock: ProcessClock,
    /// Steps taken.
    steps: u64,
    /// As measured after the last step, if it was.
    held_out_loss: Option<f64>,
    average: Option<WeightAverage>,
    /// The averages of whole parameters, after the last step.
    last_average: Option<Vec<Tensor>>,
    patience: Patience,
    best: BestLoss,
    /// By a score, rather than by the loss.
    best_weights: Option<BestWeights>,
    recovery: Recovery,
    /// Training time before this process, and since when it counts here.
    trained_before: Duration,
    began: Instant,
    /// Why training ended before its last step.
    ended_early: Option<String>,
}

/// What is to be done after a step.
#[derive(Debug, Clone, Copy)]
struct Due {
    report: bool,
    evaluate: bool,
    checkpoint: bool,
}

impl Trainer {
    /// Trains until all steps are taken, or a hook stops it.
    ///
    /// # Errors
    /// A loss that is not finite, and whatever batches, hooks, sinks and the machine refuse. What
    /// was recorded until then is in the sinks.
    pub fn run(&mut self) -> Result<()> {
        let mut control = Control::default();
        self.began = Instant::now();
        if self.steps == 0 && self.recovery.watch.policy.goes_back() {
            self.checkpoint(&mut control)?;
        }
        // A run may go on from where it had already ended.
        control.stop = self.is_over_by_score();
        while self.steps < self.options.max_steps && !control.stop {
            self.meter.begin_step();
            let outcome = self.step()?;
            self.meter.end_step(self.steps, &outcome, self.clock.elapsed());
            self.call_hooks(&outcome, &mut control)?;
            self.poll_checkpoint(&mut control)?;
            let due = self.due(&mut control)?;
            let went_back = due.report && self.report(due, &mut control)?;
            let asked = std::mem::take(&mut control.checkpoint_now);
            if (due.checkpoint || asked) && !went_back {
                self.checkpoint(&mut control)?;
            }
        }
        self.end(&mut control)
    }

    /// What is to be done after this step.
    fn due(&self, control: &mut Control) -> Result<Due> {
        let TrainOptions { max_steps, log_every, eval_every, max_time, .. } = self.options;
        if max_time.is_some_and(|time| self.trained() >= time) && self.steps < max_steps {
            control.stop = true;
        }
        let every = |steps: u64| steps > 0 && self.steps.is_multiple_of(steps);
        let evaluate = std::mem::take(&mut control.evaluate) || every(eval_every);
        let asked = std::mem::take(&mut control.checkpoint);
        // A rank that writes none may still be the one that a signal reached.
        let checkpoint = match &self.checkpointer {
            Some(checkpointer) => asked || checkpointer.is_due(self.steps),
            None => asked && self.work.group.rank() > 0,
        };
        let wishes = [control.stop, evaluate, checkpoint].map(i64::from);
        let agreed = distributed::agree_on(&self.work.group, wishes)?;
        let [stop, evaluate, checkpoint] = agreed.map(|wish| wish > 0);
        control.stop = stop;
        let is_last = self.steps == max_steps || stop;
        let report = self.steps == 1 || is_last || evaluate || checkpoint || every(log_every);
        Ok(Due { report, evaluate, checkpoint })
    }

    fn call_hooks(&mut self, outcome: &StepOutcome, control: &mut Control) -> Result<()> {
        let (params, optimizer) = (&self.work.params, self.work.optimizer.local());
        let (step, max_steps) = (self.steps, self.options.max_steps);
        let context = StepContext { step, max_steps, outcome, params, optimizer };
        self.hooks.iter_mut().try_for_each(|hook| hook.on_step(&context, control))
    }
}
