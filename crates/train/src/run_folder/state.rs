//! `run.json`: whether a run goes on, and how it ended.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::lock::FolderLock;
use super::names::STATE;
use crate::error::{Error, Result};

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    /// The program's version.
    pub version: String,
    /// When this process began to write the run, in seconds since 1970.
    pub began_at_s: u64,
    /// How it ended; absent while it goes on, and where the process was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When, in seconds since 1970.
    pub at_s: u64,
    /// How.
    pub outcome: RunOutcome,
    /// What happened, where it did not finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunOutcome {
    /// All its steps were done.
    Finished,
    /// Somebody stopped it.
    Interrupted,
    /// It could not go on.
    Failed,
}

/// What a run does, as seen from another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// A process writes it.
    Running,
    /// It ended.
    Ended(RunOutcome),
}

impl RunState {
    /// The state of a run that begins now.
    pub(super) fn begin() -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { version, began_at_s: now_s(), ended: None }
    }

    /// The same run, ended now.
    pub(super) fn end(mut self, outcome: RunOutcome, reason: Option<String>) -> Self {
        self.ended = Some(Ended { at_s: now_s(), outcome, reason });
        self
    }

    /// Reads the state of the run in `folder`.
    ///
    /// # Errors
    /// What the system says, and a file that holds something else.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        serde_json::from_str(&text).map_err(|error| {
            let reason = format!("not the state of a run: {error}");
            bert4rs_tensor_core::Error::File { path, reason }.into()
        })
    }

    /// What the run in `folder`, whose state this is, does now. One whose process was killed left
    /// no word of its end, and is interrupted.
    pub fn status(&self, folder: &Path) -> Status {
        match &self.ended {
            _ if FolderLock::is_taken(folder) => Status::Running,
            Some(ended) => Status::Ended(ended.outcome),
            None => Status::Ended(RunOutcome::Interrupted),
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(STATE);
        let text =
            serde_json::to_string_pretty(self).map_err(|error| Error::io(&path)(error.into()))?;
        super::write(&path, text.as_bytes())
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
