//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a configuration and a trained model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration key has a value that can't be used.
    #[error("{origin}: {key}: {reason}")]
    Config {
        /// Where the value came from: a file, a preset or a flag.
        origin: String,
        /// The key, such as `model.num_heads`.
        key: String,
        /// What is wrong, what was expected, what to do.
        reason: String,
    },
    /// Text that is no TOML.
    #[error("{origin}: not valid TOML: {reason}")]
    Toml {
        /// The file, preset or flag.
        origin: String,
        /// The parser's words, with line and column.
        reason: String,
    },
    /// A preset that does not exist.
    #[error("no preset {name:?}; {hint}")]
    UnknownPreset {
        /// The name that was asked for.
        name: String,
        /// The nearest name, or all of them.
        hint: String,
    },
    /// A run folder that must not be overwritten, or is none.
    #[error("{path}: {reason}")]
    RunFolder {
        /// The folder.
        path: PathBuf,
        /// Why it can't be used and what to do.
        reason: String,
    },
    /// A file or folder could not be read or written.
    #[error("{path}: {source}{}", advice(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Training can't go on.
    #[error("step {step}: {reason}")]
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// What happened and what to try.
        reason: String,
    },
    /// From the floor: devices, files, libtorch.
    #[error(transparent)]
    Core(#[from] bert4rs_tensor_core::Error),
    /// From corpora, tokenizers and batches.
    #[error(transparent)]
    Data(#[from] bert4rs_data::Error),
    /// From the models.
    #[error(transparent)]
    Model(#[from] bert4rs_models::Error),
    /// From the optimizers.
    #[error(transparent)]
    Optim(#[from] bert4rs_optim::Error),
}

impl Error {
    /// Names the path in an I/O error.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Whether the fault lies in what the user gave, rather than in what the machine did.
    pub fn is_bad_input(&self) -> bool {
        use bert4rs_tensor_core::Error as Core;
        !matches!(
            self,
            Self::Diverged { .. } | Self::Core(Core::Torch { .. } | Core::OutOfMemory { .. })
        )
    }
}

fn advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => "; free disk space, or choose another folder with --out",
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder that you may write to with --out"
        }
        _ => "",
    }
}
