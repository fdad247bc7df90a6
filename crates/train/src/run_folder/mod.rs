//! The folder that a run leaves: one process writes it, and nothing that was there is lost before
//! something better is whole.
//!
//! A run writes where its flags say. One that is to replace an old run writes to `NAME.new`, and
//! takes the old one's place, in one step, once it has something whole to show:
//! [`RunFolder::replace_old`]. Killed at any moment, it leaves the old run, or its own, or both.

mod claim;
mod lock;
mod metrics_file;
mod names;
mod reserve;
mod state;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bert4rs_tensor_core::safetensors::write_atomic;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::Serialize;

pub use claim::{ClaimedFolder, default_path};
use lock::FolderLock;
pub(crate) use metrics_file::keep_until;
pub use names::{AVERAGE, CHECKPOINTS, CONFIG, METRICS, STATE, SUMMARY, TENSORBOARD, holds_run};
pub use state::{Ended, RunOutcome, RunState, Status};

use crate::error::{Error, Result};
use crate::metrics::JsonLinesSink;

/// A folder and the lock on it, which some file systems lack.
type Locked = (PathBuf, Option<FolderLock>);

/// The folder of a run that is under way. Dropped without [`end`](Self::end), as when the process
/// is killed, it holds an interrupted run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: Option<FolderLock>,
    /// The run that this one is to replace.
    old: Option<Locked>,
    metrics: File,
}

impl RunFolder {
    fn new((path, lock): Locked, old: Option<Locked>, metrics: File) -> Self {
        Self { path, _lock: lock, old, metrics }
    }

    /// Where it lies now. [`replace_old`](Self::replace_old) may change it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it will lie in the end.
    pub fn final_path(&self) -> &Path {
        self.old.as_ref().map_or(&self.path, |(path, _)| path)
    }

    /// The outlet that writes `metrics.jsonl`.
    ///
    /// # Errors
    /// What the system says.
    pub fn metrics(&self) -> Result<JsonLinesSink> {
        let path = self.path.join(METRICS);
        let file = self.metrics.try_clone().map_err(Error::io(&path))?;
        Ok(JsonLinesSink::new(path, file))
    }

    /// Tells that the folder now holds a whole model or checkpoint. A run that this one replaces
    /// is removed, and this one takes its place in one step; files in the old folder that no run
    /// made move along. Later calls do nothing. No file of the run may be in writing.
    ///
    /// # Errors
    /// What the system says; then both runs are where they were.
    pub fn replace_old(&mut self) -> Result<()> {
        let Some((target, lock)) = self.old.take() else { return Ok(()) };
        if let Err(error) = exchange(&self.path, &target) {
            let failure = Error::io(&target)(error);
            self.old = Some((target, lock));
            return Err(failure);
        }
        let replaced = std::mem::replace(&mut self.path, target);
        // What can't be removed is the old run's, and the next one that overwrites tries again.
        let _ = remove_replaced(&replaced, &self.path);
        Ok(())
    }

    /// Writes `summary.json`.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_summary<T: Serialize>(&self, summary: &T) -> Result<()> {
        let path = self.path.join(SUMMARY);
        let text = serde_json::to_string_pretty(summary)
            .map_err(|error| Error::io(&path)(error.into()))?;
        write(&path, text.as_bytes())
    }

    /// Writes down how the run ended, with the reason where it did not finish, and lets go of the
    /// folder.
    ///
    /// # Errors
    /// What the system says.
    pub fn end(mut self, outcome: RunOutcome, reason: Option<String>) -> Result<()> {
        self.release();
        let began = RunState::read(&self.path)?;
        began.end(outcome, reason).write(&self.path)
    }
}

/// Writes a file that is whole or not there.
fn write(path: &Path, contents: &[u8]) -> Result<()> {
    Ok(write_atomic(path, contents)?)
}

/// Makes two folders change places at once; where the file system can't, one after the other, so
/// that both are there at any time, if not always under these names.
fn exchange(new: &Path, old: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let mut aside = old.as_os_str().to_owned();
            aside.push(".old");
            fs::rename(old, &aside)?;
            fs::rename(new, old)?;
            fs::rename(&aside, new)
        }
        outcome => Ok(outcome?),
    }
}

/// Removes the run in `replaced`; what no run made moves to `new`.
fn remove_replaced(replaced: &Path, new: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(replaced)? {
        let entry = entry?;
        let place = new.join(entry.file_name());
        if !entry.file_name().to_str().is_some_and(names::is_own) && !place.exists() {
            fs::rename(entry.path(), place)?;
        }
    }
    names::clear(replaced)?;
    fs::remove_file(replaced.join(names::MARKER))?;
    fs::remove_dir(replaced)
}
