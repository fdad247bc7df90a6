//! The one error type of this crate.

use std::fmt::Display;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What a configuration, an input or a model folder can get wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the model's configuration that no model can have.
    #[error("model configuration: {key} = {value}: {reason}")]
    Config {
        /// The key, as in `config.json`.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// An input that does not fit the model.
    #[error("{name}: {found}, expected {expected}")]
    Input {
        /// The input's name.
        name: &'static str,
        /// What was given.
        found: String,
        /// What the model takes.
        expected: String,
    },
    /// An input that the model does not read.
    #[error("unknown tensor {name:?}; {architecture} reads {known}")]
    UnknownInput {
        /// Its name.
        name: String,
        /// The model's class in transformers.
        architecture: String,
        /// What the model reads.
        known: String,
    },
    /// A file of a model folder that is not what it should be.
    #[error("{path}: {reason}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A folder's weights that are not those of the model.
    #[error("{path}: the weights are not those of this model: {}", list(.wrong))]
    Weights {
        /// The folder.
        path: PathBuf,
        /// Each parameter that is missing or of another shape, in words.
        wrong: Vec<String>,
    },
    /// From the layer below.
    #[error(transparent)]
    Core(#[from] bert4rs_tensor_core::Error),
}

impl Error {
    /// A [`Error::Config`].
    pub fn config(key: &'static str, value: impl Display, reason: impl Into<String>) -> Self {
        Self::Config { key, value: value.to_string(), reason: reason.into() }
    }
}

/// The first of many, and how many there are.
fn list(wrong: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = wrong.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    match wrong.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}
