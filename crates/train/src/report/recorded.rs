//! A run as its folder tells it, finished or not.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use toml::Table;

use crate::config::Overlay;
use crate::error::{Error, Result};
use crate::run_folder::{self, CONFIG, METRICS, RunOutcome, RunState, SUMMARY, Status};

/// What is read of a step's line in `metrics.jsonl`; what is absent or no number is NaN.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct RecordedStep {
    /// Counted from 1.
    pub step: u64,
    /// In nats.
    #[serde(default, deserialize_with = "absent_is_nan")]
    pub loss: f64,
    /// Real tokens a second.
    #[serde(default, deserialize_with = "absent_is_nan")]
    pub tokens_per_s: f64,
    /// AdamW's learning rate.
    #[serde(default, deserialize_with = "absent_is_nan")]
    pub lr: f64,
    /// Before clipping.
    #[serde(default, deserialize_with = "absent_is_nan")]
    pub grad_norm: f64,
    /// Since the process began.
    #[serde(default, deserialize_with = "absent_is_nan")]
    pub time_s: f64,
    /// Of the process.
    #[serde(default, deserialize_with = "absent_is_nan")]
    pub resident_bytes: f64,
    /// What was measured on held-out text after it, if anything was.
    #[serde(default)]
    pub held_out: RecordedMeasurement,
}

/// What is read of a measurement on held-out text; what is absent or no number is NaN.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub struct RecordedMeasurement {
    /// In nats.
    #[serde(deserialize_with = "absent_is_nan")]
    pub loss: f64,
    /// Share of labels that were predicted.
    #[serde(deserialize_with = "absent_is_nan")]
    pub accuracy: f64,
}

impl Default for RecordedMeasurement {
    fn default() -> Self {
        Self { loss: f64::NAN, accuracy: f64::NAN }
    }
}

fn absent_is_nan<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// A run's folder, read.
#[derive(Debug)]
pub struct RecordedRun {
    /// The folder.
    pub path: PathBuf,
    /// When it began and how it ended.
    pub state: RunState,
    /// What it does now.
    pub status: Status,
    /// Its configuration.
    pub config: Table,
    /// Its steps so far.
    pub steps: Vec<RecordedStep>,
    /// `summary.json`, or null where it has not ended well.
    pub summary: Value,
    /// Bytes of all that lies in the folder.
    pub bytes: u64,
}

impl RecordedRun {
    /// Reads the run in `path`.
    ///
    /// # Errors
    /// A folder that is no run, and files that are not what a run writes.
    pub fn read(path: &Path) -> Result<Self> {
        if !run_folder::holds_run(path) {
            let reason = "is no run's folder; `bert4rs runs` lists them".to_owned();
            return Err(Error::RunFolder { path: path.to_owned(), reason });
        }
        let state = RunState::read(path)?;
        let config = path.join(CONFIG);
        let text = fs::read_to_string(&config).map_err(Error::io(&config))?;
        Ok(Self {
            status: state.status(path),
            state,
            config: Overlay::parse(config.display().to_string(), &text)?.values,
            steps: steps(&path.join(METRICS))?,
            summary: summary(&path.join(SUMMARY))?,
            bytes: size(path).map_err(Error::io(path))?,
            path: path.to_owned(),
        })
    }

    /// Its folder's name.
    pub fn name(&self) -> String {
        let name =
            self.path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_owned()));
        name.map_or_else(|| self.path.display().to_string(), |name| name.to_string_lossy().into())
    }

    /// What it does, in a word.
    pub fn status_word(&self) -> &'static str {
        match self.status {
            Status::Running => "running",
            Status::Ended(RunOutcome::Finished) => "finished",
            Status::Ended(RunOutcome::Interrupted) => "interrupted",
            Status::Ended(RunOutcome::Failed) => "failed",
        }
    }

    /// A number of `summary.json`.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.summary[key].as_f64()
    }
}

/// The marked folders in `folder`, by name; none where there is no such folder.
///
/// # Errors
/// What the system says.
pub fn find_runs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        if run_folder::holds_run(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A line that is being written, the last, is left out.
fn steps(path: &Path) -> Result<Vec<RecordedStep>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(Error::io(path))?,
    };
    let mut steps = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        match serde_json::from_str(line) {
            Ok(step) => steps.push(step),
            Err(_) if lines.peek().is_none() => {}
            Err(error) => {
                let reason = format!("line {}: not a step's record: {error}", number + 1);
                let path = path.to_owned();
                return Err(bert4rs_tensor_core::Error::File { path, reason }.into());
            }
        }
    }
    Ok(steps)
}

fn summary(path: &Path) -> Result<Value> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(Error::io(path)(error)),
        Ok(text) => serde_json::from_str(&text).map_err(|error| {
            let reason = format!("not JSON: {error}");
            bert4rs_tensor_core::Error::File { path: path.to_owned(), reason }.into()
        }),
    }
}

/// Bytes of all files in `folder`. Links are not followed; what vanishes meanwhile counts nothing.
pub(crate) fn size(folder: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let size_of = |metadata: fs::Metadata| match metadata.is_dir() {
            true => size(&entry.path()),
            false => Ok(metadata.len()),
        };
        match entry.metadata().and_then(size_of) {
            Ok(bytes) => sum += bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}
