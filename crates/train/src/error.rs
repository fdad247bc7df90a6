//! The one error type of this crate.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::config::Config;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a configuration and a trained model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration key has a value that can't be used.
    #[error("{}: {}", place(origin, key), shorten_to(REASON, reason))]
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
    /// A disk has too little space for what a run must write in the end.
    #[error(
        "{path}: the disk is full: {} are needed, {} are free; {}",
        in_units(*needed), in_units(*available), after_full_disk(rescued)
    )]
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        available: u64,
        /// Where the trained model lies instead, if there is one.
        rescued: Option<PathBuf>,
    },
    /// Memory does not hold a step.
    #[error(
        "out of memory with data.batch_size {batch_size} × data.seq_len {seq_len}, \
         model.hidden_size {hidden_size}, model.num_layers {num_layers}, model.vocab_size \
         {vocab_size}: {message}; lower data.batch_size (and raise train.accumulate by as much), \
         data.seq_len or the model's sizes, or add --preset low-memory"
    )]
    OutOfMemory {
        /// Sequences of a batch.
        batch_size: u32,
        /// Tokens of a sequence.
        seq_len: u32,
        /// Features of a token.
        hidden_size: u32,
        /// Transformer blocks.
        num_layers: u32,
        /// Entries of the vocabulary.
        vocab_size: u32,
        /// libtorch's own words.
        message: String,
    },
    /// Standard output does not take what is printed.
    #[error("standard output: {source}{}", advice_on_output(source))]
    Output {
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
    /// Somebody stopped the run; its state is saved.
    #[error(
        "stopped by {} after step {step}; go on with: bert4rs train --config {}/config.toml \
         --resume auto", signal_name(*signal), folder.display()
    )]
    Stopped {
        /// The signal's number.
        signal: u8,
        /// Steps taken.
        step: u64,
        /// The run's folder.
        folder: PathBuf,
    },
    /// Somebody stopped fine-tuning; the best weights until then are a model.
    #[error(
        "stopped by {} after step {step}; the best weights until then are in {}; go on with: \
         bert4rs finetune {task} --config {}/config.toml --resume auto",
        signal_name(*signal), folder.display(), folder.display()
    )]
    StoppedEarly {
        /// The signal's number.
        signal: u8,
        /// Steps taken.
        step: u64,
        /// The run's folder.
        folder: PathBuf,
        /// The task's name.
        task: &'static str,
    },
    /// From a task, loader, hook or sink that is not of this crate.
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
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

    /// An error met while training as `config` says: of one about memory, with the sizes.
    pub(crate) fn while_training(self, config: &Config) -> Self {
        let Some(bert4rs_tensor_core::Error::OutOfMemory { message, .. }) = self.core() else {
            return self;
        };
        let message = message.clone();
        Self::OutOfMemory {
            batch_size: config.data.batch_size,
            seq_len: config.data.seq_len,
            hidden_size: config.model.hidden_size,
            num_layers: config.model.num_layers,
            vocab_size: config.model.vocab_size,
            message,
        }
    }

    /// Whether the fault lies in what the user gave, rather than in what the machine did.
    pub fn is_bad_input(&self) -> bool {
        use bert4rs_tensor_core::Error as Core;
        let is_machines = match self {
            Self::DiskFull { .. }
            | Self::Output { .. }
            | Self::OutOfMemory { .. }
            | Self::Diverged { .. }
            | Self::Other(_)
            | Self::Stopped { .. }
            | Self::StoppedEarly { .. }
            | Self::Optim(bert4rs_optim::Error::NonFinite { .. }) => true,
            other => matches!(
                other.core(),
                Some(Core::Torch { .. } | Core::OutOfMemory { .. } | Core::Distributed { .. })
            ),
        };
        !is_machines && !self.is_full_disk()
    }

    /// The error of the floor, through whichever crate it came.
    fn core(&self) -> Option<&bert4rs_tensor_core::Error> {
        match self {
            Self::Core(core)
            | Self::Data(bert4rs_data::Error::Tensor(core))
            | Self::Model(bert4rs_models::Error::Core(core))
            | Self::Optim(bert4rs_optim::Error::Tensor(core)) => Some(core),
            _ => None,
        }
    }

    /// Whether it is only that nobody reads standard output any more.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output { source } if source.kind() == ErrorKind::BrokenPipe)
    }

    /// Whether a full disk is behind it, in whichever crate it was met.
    pub fn is_full_disk(&self) -> bool {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = source {
            if error.downcast_ref().is_some_and(is_storage_full) {
                return true;
            }
            source = error.source();
        }
        matches!(self, Self::DiskFull { .. })
    }
}

/// Where a key's value came from and the key, which a flag may name already.
fn place(origin: &str, key: &str) -> String {
    let (origin, key) = (shorten(origin), shorten(key));
    if key.is_empty() || origin.split(' ').any(|word| word == key) {
        return origin;
    }
    format!("{origin}: {key}")
}

/// A value as messages show it: of a long one the beginning.
pub(crate) fn shorten(value: &str) -> String {
    shorten_to(VALUE, value)
}

/// Characters of a value, and of a reason that holds one, as messages show them.
const VALUE: usize = 160;
const REASON: usize = 500;

fn shorten_to(shown: usize, value: &str) -> String {
    match value.char_indices().nth(shown) {
        Some((end, _)) => format!("{}… ({} characters)", &value[..end], value.chars().count()),
        None => value.to_owned(),
    }
}

/// Whether the system says that a disk, or a user's share of it, is full.
pub(crate) fn is_storage_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Bytes in the largest unit that leaves a whole part.
pub fn in_units(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let exponent = (bytes.max(1).ilog2() / 10).clamp(1, units.len() as u32);
    let value = bytes as f64 / (1u64 << (10 * exponent)) as f64;
    let digits = if value < 10.0 { 1 } else { 0 };
    format!("{value:.digits$} {}", units[exponent as usize - 1])
}

fn signal_name(signal: u8) -> String {
    match signal {
        2 => "Ctrl-C".into(),
        15 => "SIGTERM".into(),
        other => format!("signal {other}"),
    }
}

fn after_full_disk(rescued: &Option<PathBuf>) -> String {
    match rescued {
        Some(path) => format!("the trained model is in {} instead", path.display()),
        None => "free space, or choose another folder with --out".into(),
    }
}

fn advice_on_output(source: &std::io::Error) -> &'static str {
    if is_storage_full(source) { "; free disk space, or redirect it to another place" } else { "" }
}

fn advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::StorageFull => "; free disk space, or choose another folder with --out",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder that you may write to with --out"
        }
        _ => "",
    }
}
