//! `metrics.jsonl`: whole lines, in the order of steps, whatever the disk does.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use bert4rs_tensor_core::Error as Core;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, is_storage_full};

/// The file, and the lines that the disk has had no room for.
#[derive(Debug)]
pub(super) struct MetricsFile {
    file: File,
    waiting: Vec<u8>,
}

impl MetricsFile {
    pub(super) fn new(file: File) -> Self {
        Self { file, waiting: Vec::new() }
    }

    /// Hands `records` to the system, an object a line, after those that wait. Where the disk is
    /// full they wait too: no reason to stop training.
    pub(super) fn append<T: Serialize>(&mut self, path: &Path, records: &[T]) -> Result<()> {
        for record in records {
            serde_json::to_writer(&mut self.waiting, record)
                .map_err(|error| Error::io(path)(error.into()))?;
            self.waiting.push(b'\n');
        }
        match self.flush() {
            Err(error) if !is_storage_full(&error) => Err(Error::io(path)(error)),
            _ => Ok(()),
        }
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        while !self.waiting.is_empty() {
            let written = self.file.write(&self.waiting)?;
            if written == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            self.waiting.drain(..written);
        }
        Ok(())
    }

    /// Whether lines wait for room on the disk.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// Makes the file at `path`.
pub(super) fn create(path: &Path) -> Result<File> {
    File::options().append(true).create_new(true).open(path).map_err(Error::io(path))
}

/// Opens the file at `path` to append to, without the lines after `last_step` and one that was
/// being written when the process ended.
pub(super) fn keep_until(path: &Path, last_step: u64) -> Result<File> {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
    }
    let file = File::open(path).map_err(Error::io(path))?;
    let mut kept = Vec::new();
    let mut lines = BufReader::new(file).split(b'\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let line = line.map_err(Error::io(path))?;
        match serde_json::from_slice::<Line>(&line) {
            Ok(Line { step }) if step > last_step => {}
            Ok(_) => {
                kept.extend(line);
                kept.push(b'\n');
            }
            Err(_) if lines.peek().is_none() => {}
            Err(error) => {
                let reason = format!("line {}: not a step's record: {error}", number + 1);
                return Err(Core::File { path: path.to_owned(), reason }.into());
            }
        }
    }
    super::write(path, &kept)?;
    File::options().append(true).open(path).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_without_a_gap_or_a_repeated_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = |step: u64| format!("{{\"step\":{step},\"loss\":1.5}}\n");
        std::fs::write(&path, [line(1), line(2), line(3), "{\"step\":4,\"lo".into()].concat())
            .unwrap();
        let mut metrics = MetricsFile::new(keep_until(&path, 2).unwrap());
        metrics.append(&path, &[serde_json::json!({ "step": 3 })]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, [line(1), line(2), "{\"step\":3}\n".into()].concat());

        std::fs::write(&path, ["half\n".into(), line(2)].concat()).unwrap();
        let error = keep_until(&path, 2).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl: line 1"), "{error}");
    }

    #[test]
    fn lines_wait_for_a_full_disk() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut metrics = MetricsFile::new(full);
        metrics.append(Path::new("metrics.jsonl"), &[1, 2]).unwrap();
        assert!(metrics.is_behind());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        metrics.file = create(&path).unwrap();
        metrics.append(&path, &[3]).unwrap();
        assert!(!metrics.is_behind());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n3\n");
    }
}
