//! The folder of a matrix: what each process measured, kept so that an interrupted matrix goes on.
//!
//! `SIZE/ROW/round-N/` holds the run's own folder `run`, its output `log.txt`, and last of all
//! `measurement.json`, whose key says what was run: another program or other arguments, and it
//! is measured again.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::measurement::Measurement;
use crate::cache::replace_file;
use crate::error::{Error, Result};
use crate::fetch::hex;

/// Marks a folder as a matrix's own, and is locked while one runs.
const MARK: &str = "bench-matrix.lock";

/// A folder that measurements are kept in.
pub(crate) struct ResultStore {
    root: PathBuf,
    _lock: File,
}

/// What was measured, and by what.
#[derive(Serialize, Deserialize)]
struct KeptMeasurement {
    key: String,
    measurement: Measurement,
}

impl ResultStore {
    /// Opens a matrix's folder, or makes one.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mark = root.join(MARK);
        let has_entries = fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some());
        if has_entries && !mark.exists() {
            return Err(Error::NotAMatrix(root.to_path_buf()));
        }
        fs::create_dir_all(root).map_err(Error::at(root))?;
        let lock = File::create(&mark).map_err(Error::at(&mark))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::MatrixRuns(root.to_path_buf())),
            Err(TryLockError::Error(source)) => Err(Error::Io { path: mark, source }),
        }
    }

    /// A file of the matrix.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder of one process.
    pub(crate) fn round(&self, size: &str, row: &str, round: &str) -> PathBuf {
        self.root.join(size).join(row).join(round)
    }

    /// What an earlier command measured in `folder` by the same key.
    pub(crate) fn kept(&self, folder: &Path, key: &str) -> Option<Measurement> {
        let text = fs::read_to_string(folder.join("measurement.json")).ok()?;
        let kept: KeptMeasurement = serde_json::from_str(&text).ok()?;
        (kept.key == key).then_some(kept.measurement)
    }

    /// Keeps a measurement.
    pub(crate) fn keep(&self, folder: &Path, key: &str, measurement: &Measurement) -> Result<()> {
        let path = folder.join("measurement.json");
        let kept = KeptMeasurement { key: key.to_owned(), measurement: measurement.clone() };
        let text = serde_json::to_string(&kept)
            .map_err(|error| Error::Malformed { path: path.clone(), reason: error.to_string() })?;
        replace_file(&path, text.as_bytes())
    }
}

/// One text for all that decides what a process does.
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize())
}

/// The hash of a file's contents.
pub(crate) fn hash_of(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::at(path))?;
    Ok(hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::super::measurement::{MeasuredStep, RunSummary};
    use super::*;

    fn measurement() -> Measurement {
        let summary: RunSummary = serde_json::from_str(
            "{\"tokens\":1,\"steps\":1,\"time_to_first_step_s\":1.0,\"final_loss\":null,\
             \"peak_memory_bytes\":1}",
        )
        .unwrap();
        Measurement {
            steps: vec![MeasuredStep { loss: None, tokens: 1, step_time_s: 0.1, time_s: 1.0 }],
            summary,
        }
    }

    #[test]
    fn a_measurement_is_kept_for_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = ResultStore::open(&folder.path().join("matrix")).unwrap();
        let round = store.round("seed", "bf16", "round-1");
        assert_eq!(store.kept(&round, "a"), None);
        store.keep(&round, "a", &measurement()).unwrap();
        assert_eq!(store.kept(&round, "a"), Some(measurement()));
        assert_eq!(store.kept(&round, "b"), None);
        fs::write(round.join("measurement.json"), "{\"key\":\"a\"").unwrap();
        assert_eq!(store.kept(&round, "a"), None, "cut short");
    }

    #[test]
    fn a_folder_of_something_else_and_one_in_use_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "text").unwrap();
        assert!(matches!(ResultStore::open(folder.path()), Err(Error::NotAMatrix(_))));
        let path = folder.path().join("matrix");
        let first = ResultStore::open(&path).unwrap();
        assert!(matches!(ResultStore::open(&path), Err(Error::MatrixRuns(_))));
        drop(first);
        assert!(ResultStore::open(&path).is_ok());
    }

    #[test]
    fn keys_tell_where_parts_end() {
        assert_ne!(key(["ab", "c"]), key(["a", "bc"]));
        assert_eq!(key(["ab", "c"]), key(["ab", "c"]));
    }
}
