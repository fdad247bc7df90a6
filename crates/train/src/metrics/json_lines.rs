//! `metrics.jsonl`: one JSON object a step, whole lines in the order of steps, whatever the disk
//! does.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{MetricSink, StepRecord};
use crate::error::{Error, Result, is_storage_full};
use crate::run_folder::keep_until;

/// The file, and the lines that the disk has had no room for.
#[derive(Debug)]
pub struct JsonLinesSink {
    path: PathBuf,
    file: File,
    waiting: Vec<u8>,
    was_behind: bool,
}

impl JsonLinesSink {
    /// Appends to `file`; `path` is how errors name it.
    pub fn new(path: PathBuf, file: File) -> Self {
        Self { path, file, waiting: Vec::new(), was_behind: false }
    }

    /// Hands `records` to the system, so that a run that is cut off keeps them, after those that
    /// wait. Where the disk is full they wait too: no reason to stop training.
    pub(crate) fn append<T: Serialize>(&mut self, records: &[T]) -> Result<()> {
        for record in records {
            serde_json::to_writer(&mut self.waiting, record)
                .map_err(|error| Error::io(&self.path)(error.into()))?;
            self.waiting.push(b'\n');
        }
        match self.write_waiting() {
            Err(error) if !is_storage_full(&error) => Err(Error::io(&self.path)(error)),
            _ => Ok(()),
        }
    }

    /// Writes what waits.
    fn write_waiting(&mut self) -> std::io::Result<()> {
        while !self.waiting.is_empty() {
            let written = self.file.write(&self.waiting)?;
            if written == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            self.waiting.drain(..written);
        }
        Ok(())
    }
}

impl MetricSink for JsonLinesSink {
    fn steps(&mut self, records: &[StepRecord]) -> Result<()> {
        self.append(records)
    }

    /// About the disk, each time that it changes.
    fn take_warning(&mut self) -> Option<String> {
        let is_behind = !self.waiting.is_empty();
        let changed = std::mem::replace(&mut self.was_behind, is_behind) != is_behind;
        let path = self.path.display();
        changed.then(|| match is_behind {
            true => format!("{path}: the disk is full; training goes on, and its metrics wait"),
            false => format!("{path}: the disk has room again, and nothing was lost"),
        })
    }

    fn rewind(&mut self, step: u64) -> Result<()> {
        // Lines that the disk had no room for would come after those that are cut off.
        self.write_waiting().map_err(Error::io(&self.path))?;
        self.file = keep_until(&self.path, step)?;
        Ok(())
    }

    fn moved(&mut self, folder: &Path) {
        if let Some(name) = self.path.file_name() {
            self.path = folder.join(name);
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.write_waiting().and_then(|()| self.file.sync_data()).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_for_a_full_disk() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = JsonLinesSink::new(path.clone(), full);
        metrics.append(&[1, 2]).unwrap();
        assert!(metrics.take_warning().is_some_and(|warning| warning.contains("disk is full")));
        assert_eq!(metrics.take_warning(), None, "said once");
        assert!(metrics.flush().is_err(), "what waits is not forgotten in silence");
        metrics.file = File::create(&path).unwrap();
        metrics.append(&[3]).unwrap();
        assert!(metrics.take_warning().is_some_and(|warning| warning.contains("room again")));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n3\n");
    }
}
