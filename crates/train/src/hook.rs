//! Code of others that runs within the loop.

use std::path::PathBuf;

use bert4rs_optim::Optimizer;
use bert4rs_tensor_core::param::ParamStore;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::evaluation::Evaluation;
use crate::metrics::StepOutcome;

/// What a hook sees of a step that has just been launched.
#[derive(Debug)]
pub struct StepContext<'a> {
    /// Counted from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub max_steps: u64,
    /// Its loss and the norm of its gradients, which may still be being computed: reading one
    /// waits for the device.
    pub outcome: &'a StepOutcome,
    /// The weights after the step.
    pub params: &'a ParamStore,
    /// The optimizer after the step.
    pub optimizer: &'a Optimizer,
}

/// What a hook asks of the loop.
#[derive(Debug, Default)]
pub struct Control {
    pub(crate) stop: bool,
    pub(crate) evaluate: bool,
    pub(crate) checkpoint: bool,
    /// As soon as this step is reported, rather than after the next.
    pub(crate) checkpoint_now: bool,
    pub(crate) moved_to: Option<PathBuf>,
}

impl Control {
    /// Ends training after this step.
    pub fn stop(&mut self) {
        self.stop = true;
    }

    /// Measures the model on held-out text after this step.
    pub fn evaluate(&mut self) {
        self.evaluate = true;
    }

    /// Says that the run's folder, and what was written to it, is in another place now.
    pub fn moved_to(&mut self, folder: PathBuf) {
        self.moved_to = Some(folder);
    }

    /// Writes a checkpoint after this step, if the trainer writes any.
    pub fn checkpoint(&mut self) {
        self.checkpoint = true;
    }
}

/// Code that runs within the loop. Each method does nothing unless implemented; an error from one
/// ends the run.
pub trait Hook {
    /// After each step.
    ///
    /// # Errors
    /// Whatever the hook refuses.
    fn on_step(&mut self, step: &StepContext<'_>, control: &mut Control) -> Result<()> {
        let (_, _) = (step, control);
        Ok(())
    }

    /// After the model was measured on held-out text.
    ///
    /// # Errors
    /// Whatever the hook refuses.
    fn on_eval(&mut self, evaluation: &Evaluation, control: &mut Control) -> Result<()> {
        let (_, _) = (evaluation, control);
        Ok(())
    }

    /// After a checkpoint was written, which happens while training goes on.
    ///
    /// # Errors
    /// Whatever the hook refuses.
    fn on_checkpoint(&mut self, checkpoint: &Checkpoint, control: &mut Control) -> Result<()> {
        let (_, _) = (checkpoint, control);
        Ok(())
    }

    /// After the last step.
    ///
    /// # Errors
    /// Whatever the hook refuses.
    fn on_end(&mut self) -> Result<()> {
        Ok(())
    }
}
