//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a folder of text and a batch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused to read or write.
    #[error("can't {doing} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `create`, ...
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A corpus is not text, or not there.
    #[error("corpus {}: {reason}", path.display())]
    Corpus {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// A file that should be text is not.
    #[error("{}: {reason}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Which byte is at fault, and what to do.
        reason: String,
    },
    /// A tokenizer can't be read, trained, or used for masked language modelling.
    #[error("tokenizer {origin}: {reason}")]
    Tokenizer {
        /// Its file, or how it was made.
        origin: String,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// A token file is not what was written.
    #[error("token file {} {reason}", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// The folder of prepared data can't be written to.
    #[error("can't write to the cache {}: {source}; choose another by XDG_CACHE_HOME",
            folder.display())]
    CacheNotWritable {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The disk has no room for prepared data.
    #[error("the disk of {} is full: preparing this corpus needs about {needed} more, and there \
             are {available}; free space, or choose another place by XDG_CACHE_HOME (what was \
             done so far is kept, and the next try goes on from it)", folder.display())]
    DiskFull {
        /// The folder that is being made.
        folder: PathBuf,
        /// About how much is still to be written, in words.
        needed: String,
        /// How much there is, in words.
        available: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A dataset in the cache can't be used as it is.
    #[error("{reason} (delete the folder {} to have this dataset made anew)", folder.display())]
    Cache {
        /// The dataset's folder.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting has a value that can't be used.
    #[error("{key} is {value}, expected {expected}")]
    Setting {
        /// The setting's name.
        key: &'static str,
        /// Its value.
        value: String,
        /// Which values can be used.
        expected: String,
    },
    /// There is no batch of that number.
    #[error("batch {index} was asked for, but there are only {count}")]
    NoSuchBatch {
        /// The number asked for.
        index: u64,
        /// How many there are.
        count: u64,
    },
    /// A batch lacks a tensor that was asked for: it is of another task.
    #[error("a batch has no tensor {name:?}; it has {found}")]
    MissingTensor {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        found: String,
    },
    /// A thread that makes batches can't be had, or panicked.
    #[error("making batch {index}: {reason}")]
    Worker {
        /// The batch's number.
        index: u64,
        /// The thread's last words.
        reason: String,
    },
    /// libtorch, or a file behind it.
    #[error(transparent)]
    Tensor(#[from] bert4rs_tensor_core::Error),
}

impl Error {
    /// Adds what was done to which file to a system error.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    pub(crate) fn corpus(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corpus { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn setting(
        key: &'static str,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Setting { key, value: value.to_string(), expected: expected.into() }
    }
}
