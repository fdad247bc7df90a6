//! The folder that a run leaves: made early, filled late, never overwriting another.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bert4rs_tensor_core::safetensors::write_atomic;
use serde::Serialize;

use crate::config::Config;
use crate::error::{Error, Result};

/// Everything that a run may leave, and all that `--overwrite` removes.
const FILES: [&str; 9] = [
    "config.toml",
    "metrics.jsonl",
    "summary.json",
    crate::profile::TABLE_FILE,
    crate::profile::TRACE_FILE,
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The first free folder of the form `runs/PRESET-N`.
pub fn default_path(preset: &str) -> PathBuf {
    let numbered = (1u64..).map(|number| PathBuf::from(format!("runs/{preset}-{number}")));
    numbered.into_iter().find(|path| !path.exists()).unwrap_or_else(|| "runs/run".into())
}

/// A folder that is this run's, but holds nothing yet. Dropped unused, it is gone again.
#[derive(Debug)]
pub struct ClaimedFolder {
    path: PathBuf,
    made: bool,
}

impl ClaimedFolder {
    /// Claims `path`, so that a run fails before it works rather than after.
    ///
    /// # Errors
    /// A path that holds a run without `overwrite`, one that holds something else in any case,
    /// and a place that can't be written to.
    pub fn claim(path: &Path, overwrite: bool) -> Result<Self> {
        let refuse = |reason: &str| {
            Err(Error::RunFolder { path: path.to_owned(), reason: reason.to_owned() })
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        match fs::create_dir(path) {
            Ok(()) => return Ok(Self { path: path.to_owned(), made: true }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(path)(error)),
        }
        if !path.is_dir() {
            return refuse("is a file; choose another folder with --out");
        }
        let mut entries = fs::read_dir(path).map_err(Error::io(path))?;
        let is_empty = entries.next().is_none();
        let is_run = path.join("config.toml").exists();
        match (is_empty, is_run, overwrite) {
            (true, ..) => Ok(Self { path: path.to_owned(), made: false }),
            (_, true, true) => Ok(Self { path: path.to_owned(), made: false }),
            (_, true, false) => {
                refuse("holds a run; choose another folder with --out, or add --overwrite")
            }
            (_, false, _) => refuse("is neither empty nor a run; choose another folder with --out"),
        }
    }

    /// Removes what an earlier run left here and starts this one.
    pub fn begin(mut self, config: &Config) -> Result<RunFolder> {
        for name in FILES {
            let file = self.path.join(name);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&file)(error));
                }
                _ => {}
            }
        }
        self.made = false;
        let path = std::mem::take(&mut self.path);
        write_atomic(&path.join("config.toml"), config.to_toml()?.as_bytes())?;
        let metrics_path = path.join("metrics.jsonl");
        let metrics = File::create(&metrics_path).map_err(Error::io(&metrics_path))?;
        Ok(RunFolder { path, metrics: BufWriter::new(metrics) })
    }
}

impl Drop for ClaimedFolder {
    fn drop(&mut self) {
        if self.made {
            // Fails where something else was put in meanwhile, which is then kept.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// The folder of a run that is under way.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: BufWriter<File>,
}

impl RunFolder {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends records to `metrics.jsonl`, one line each, and hands them to the system, so that
    /// a run that is cut off keeps them.
    pub fn log<T: Serialize>(&mut self, records: &[T]) -> Result<()> {
        let path = self.path.join("metrics.jsonl");
        for record in records {
            serde_json::to_writer(&mut self.metrics, record)
                .map_err(|error| Error::io(&path)(error.into()))?;
            self.metrics.write_all(b"\n").map_err(Error::io(&path))?;
        }
        self.metrics.flush().map_err(Error::io(&path))
    }

    /// Writes `summary.json`.
    pub fn write_summary<T: Serialize>(&self, summary: &T) -> Result<()> {
        let path = self.path.join("summary.json");
        let text = serde_json::to_string_pretty(summary)
            .map_err(|error| Error::io(&path)(error.into()))?;
        Ok(write_atomic(&path, text.as_bytes())?)
    }
}
