//! When a checkpoint is due, and writing it while training goes on.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::files::Checkpoint;
use super::state::TrainState;
use super::store::prune;
use crate::error::{Error, Result};
use crate::run_folder::CHECKPOINTS;

/// How often checkpoints are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interval {
    /// Only where the run stops early.
    Never,
    /// Each time that so many steps were taken.
    Steps(u64),
    /// After so many minutes.
    Minutes(u64),
}

impl FromStr for Interval {
    type Err = Error;

    /// Reads `500`, `10m` or `never`.
    fn from_str(text: &str) -> Result<Self> {
        if text == "never" {
            return Ok(Self::Never);
        }
        let (number, of): (_, fn(u64) -> Self) = match text.strip_suffix('m') {
            Some(minutes) => (minutes, Self::Minutes),
            None => (text, Self::Steps),
        };
        number.parse().map(of).map_err(|_| Error::Config {
            origin: "command line".into(),
            key: "--checkpoint-every".into(),
            reason: format!("{text:?}: expected steps (500), minutes (10m) or never"),
        })
    }
}

impl From<Interval> for toml::Value {
    /// As the configuration has it.
    fn from(interval: Interval) -> Self {
        let table = |unit: &str, count: u64| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            Self::Table(toml::Table::from_iter([(unit.to_owned(), count.into())]))
        };
        match interval {
            Interval::Never => "never".into(),
            Interval::Steps(steps) => table("steps", steps),
            Interval::Minutes(minutes) => table("minutes", minutes),
        }
    }
}

/// Which checkpoints stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The newest ones, beside the best by held-out loss; at least 1.
    pub keep: usize,
    /// Whether training ends where one can't be written.
    pub must_write: bool,
}

/// Writes the checkpoints of one run.
#[derive(Debug)]
pub struct Checkpointer {
    run: PathBuf,
    /// The run's settings, as TOML, and the hash of its data.
    settings: String,
    dataset: String,
    interval: Interval,
    retention: Retention,
    last: Instant,
    writing: Option<JoinHandle<Result<Checkpoint>>>,
    /// Time that training waited for copies and for writes.
    paused: Duration,
    begun: u64,
}

impl Checkpointer {
    /// For the run in `run`, whose settings, as TOML, and data's hash are kept with the state.
    pub fn new(
        run: &Path,
        settings: String,
        dataset: String,
        interval: Interval,
        retention: Retention,
    ) -> Self {
        let (run, last) = (run.to_owned(), Instant::now());
        let (writing, paused, begun) = (None, Duration::ZERO, 0);
        Self { run, settings, dataset, interval, retention, last, writing, paused, begun }
    }

    /// Whether one is due after `step` steps.
    pub(crate) fn is_due(&self, step: u64) -> bool {
        match self.interval {
            Interval::Never => false,
            Interval::Steps(steps) => step.is_multiple_of(steps),
            Interval::Minutes(minutes) => {
                self.last.elapsed() >= Duration::from_secs(minutes.saturating_mul(60))
            }
        }
    }

    /// Starts writing the state that `capture` copies; none may be being written. Training waits
    /// for it since `began`.
    ///
    /// # Errors
    /// What `capture` refuses; the system gives no thread.
    pub(crate) fn begin(
        &mut self,
        began: Instant,
        capture: impl FnOnce() -> Result<TrainState>,
    ) -> Result<()> {
        let mut state = capture()?;
        state.progress.dataset = self.dataset.clone();
        let (run, settings, keep) = (self.run.clone(), self.settings.clone(), self.retention.keep);
        let write = move || {
            let began = Instant::now();
            let written = Checkpoint::write(&run.join(CHECKPOINTS), &state, &settings);
            let (step, took) = (state.progress.step, began.elapsed());
            tracing::debug!(step, ?took, is_whole = written.is_ok(), "checkpoint written");
            // What a full disk cut off must not take its place for ever.
            let pruned = prune(&run, keep);
            let written = written?;
            pruned.map(|()| written)
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(write);
        self.writing = Some(thread.map_err(Error::io(&self.run))?);
        self.last = Instant::now();
        self.paused += began.elapsed();
        self.begun += 1;
        Ok(())
    }

    /// What happened to the checkpoint that was being written, if it is no longer.
    pub(crate) fn poll(&mut self) -> Option<Result<Checkpoint>> {
        let ended = self.writing.as_ref().is_some_and(JoinHandle::is_finished);
        if ended { self.finish() } else { None }
    }

    /// Whether training ends where one can't be written.
    pub(crate) fn must_write(&self) -> bool {
        self.retention.must_write
    }

    /// The run that they belong to.
    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    /// The run is in `folder` now. None may be being written.
    pub(crate) fn moved(&mut self, folder: &Path) {
        self.run = folder.to_owned();
    }

    /// Checkpoints begun.
    pub fn count(&self) -> u64 {
        self.begun
    }

    /// Waits for the checkpoint that is being written, if any: what happened to it.
    pub(crate) fn finish(&mut self) -> Option<Result<Checkpoint>> {
        let ended = self.writing.take()?.join();
        Some(ended.unwrap_or_else(|_| {
            let panicked = std::io::Error::other("the thread that writes checkpoints panicked");
            Err(Error::io(&self.run)(panicked))
        }))
    }

    /// Time that training waited for checkpoints.
    pub fn paused(&self) -> Duration {
        self.paused
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        // Where training failed, its own failure is the one to tell.
        drop(self.finish());
    }
}
