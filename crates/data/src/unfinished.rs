//! A dataset that is being made, in a folder from which the next process can go on.
//!
//! Whenever a file of tokens is finished, a small file says what is in finished files and how much
//! of the corpus that was. It is written last and in one step: whatever kills the process, the next
//! one finds a state that was whole, and writes what is beyond it again.

use std::cell::Cell;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};

use crate::dataset::TOKENIZER;
use crate::error::{Error, Result};
use crate::sealed;
use crate::split::SplitState;
use crate::tokenizer::TextTokenizer;

/// The file that says how far it is.
const STATE: &str = "unfinished.json";

/// How far a preparation is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The corpus that is being read: 0, or 1 for the one that is held out.
    pub(crate) corpus: usize,
    /// Chunks of it whose tokens are in finished files.
    pub(crate) chunks: u64,
    /// What is in finished files.
    pub(crate) split: SplitState,
}

/// A dataset that is being made.
pub(crate) struct Unfinished {
    pub(crate) folder: PathBuf,
    /// Bytes of text that are read, and that there are to read, for messages.
    pub(crate) read: Cell<u64>,
    pub(crate) total: u64,
}

impl Unfinished {
    /// The dataset in `folder`, of `total` bytes of text, as a process may have left it.
    pub(crate) fn open(folder: PathBuf, total: u64) -> Result<Self> {
        fs::create_dir_all(&folder).map_err(Error::io("create the cache folder", &folder))?;
        Ok(Self { folder, read: Cell::new(0), total })
    }

    /// Removes what is there.
    pub(crate) fn clear(&self) -> Result<()> {
        fs::remove_dir_all(&self.folder)
            .map_err(Error::io("remove the unfinished", &self.folder))?;
        fs::create_dir(&self.folder).map_err(Error::io("create the cache folder", &self.folder))
    }

    /// The tokenizer and state to go on from, where a process left them whole.
    pub(crate) fn state(&self) -> Option<(TextTokenizer, State)> {
        let path = self.folder.join(TOKENIZER);
        let json = fs::read(&path).ok()?;
        let tokenizer = TextTokenizer::from_json(&path, &json).ok()?;
        let (state, fingerprint): (State, String) = sealed::read(&self.folder.join(STATE)).ok()?;
        (blake3::hash(&json).to_hex().as_str() == fingerprint).then_some((tokenizer, state))
    }

    /// Keeps a state to go on from.
    pub(crate) fn save(&self, tokenizer: &TextTokenizer, state: &State) -> Result<()> {
        let fingerprint = blake3::Hash::from_bytes(tokenizer.fingerprint()?).to_hex().to_string();
        sealed::write(&self.folder.join(STATE), &(state, fingerprint))
    }

    /// Forgets it: what follows changes finished files.
    pub(crate) fn forget(&self) -> Result<()> {
        let path = self.folder.join(STATE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io("remove the unfinished", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Gives the finished dataset its place.
    pub(crate) fn rename(&self, to: &Path) -> Result<()> {
        self.forget()?;
        fs::rename(&self.folder, to).map_err(Error::io("rename the finished", &self.folder))
    }

    /// What an error means to a person, and whether what was done is of use to the next try.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let is_full = |error: &std::io::Error| {
            matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        };
        match error {
            Error::Io { source, .. } if is_full(&source) => self.disk_full(source),
            Error::Io { .. } => error,
            Error::Tensor(bert4rs_tensor_core::Error::Io { source, .. }) if is_full(&source) => {
                self.disk_full(source)
            }
            other => {
                // Nothing that is kept would be found again.
                let _ = fs::remove_dir_all(&self.folder);
                other
            }
        }
    }

    fn disk_full(&self, source: std::io::Error) -> Error {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let written: u64 =
            files.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).sum();
        let (read, total) = (self.read.get().max(1), self.total.max(1));
        let needed =
            u128::from(written) * u128::from(total.saturating_sub(read)) / u128::from(read);
        let available =
            statvfs(&self.folder).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let mebibytes = |bytes: u128| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        Error::DiskFull {
            folder: self.folder.clone(),
            needed: mebibytes(needed.max(1 << 20)),
            available: mebibytes(available.into()),
            source,
        }
    }
}
