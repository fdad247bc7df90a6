//! What a run's steps are told to: its folder, the terminal, TensorBoard, and checkpoints.

use crate::checkpoint::{Checkpointer, Retention};
use crate::config::CheckpointConfig;
use crate::console::Console;
use crate::error::Result;
use crate::measured_peak::MeasuredPeak;
use crate::run_folder::{RunFolder, TENSORBOARD};
use crate::tensorboard::EventFile;
use crate::terminal::Terminal;
use crate::trainer::Trainer;

/// The outlets of a run, of the process that leads.
pub(crate) struct Outlets<'a> {
    pub(crate) folder: &'a RunFolder,
    pub(crate) console: &'a Console,
    pub(crate) peak: &'a MeasuredPeak,
    pub(crate) flops_per_token: f64,
    /// The run's configuration, as TOML.
    pub(crate) settings: String,
    /// A hash of the data.
    pub(crate) dataset: String,
    pub(crate) checkpoint: &'a CheckpointConfig,
    pub(crate) tensorboard: bool,
}

impl Outlets<'_> {
    /// The trainer with all of them.
    ///
    /// # Errors
    /// A file that can't be written.
    pub(crate) fn attach(self, trainer: Trainer) -> Result<Trainer> {
        let terminal = Terminal::new(self.console, trainer.max_steps())
            .with_light(self.peak.clone(), self.flops_per_token);
        let terminal = match trainer.max_time() {
            Some(time) => terminal.with_time(time, trainer.trained()),
            None => terminal,
        };
        let CheckpointConfig { every, keep, must_write } = *self.checkpoint;
        let retention = Retention { keep: keep as usize, must_write };
        let path = self.folder.path();
        let checkpointer = Checkpointer::new(path, self.settings, self.dataset, every, retention);
        let trainer = trainer
            .with_checkpoints(checkpointer)
            .with_sink(self.folder.metrics()?)
            .with_sink(terminal.clone())
            .with_hook(self.peak.clone())
            .with_hook(terminal);
        if !self.tensorboard {
            return Ok(trainer);
        }
        Ok(trainer.with_sink(EventFile::create(&path.join(TENSORBOARD))?))
    }
}
