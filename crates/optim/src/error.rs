//! The one error type of this crate.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in a step, or before the first.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation, a file or a device.
    #[error(transparent)]
    Tensor(#[from] bert4rs_tensor_core::Error),
    /// A setting that can't act or makes no sense.
    #[error("optimizer: {key} = {value}: {reason}")]
    Config {
        /// The setting's path below the optimizer's section.
        key: String,
        /// Its value.
        value: String,
        /// Why it is refused, and what to set instead.
        reason: String,
    },
    /// The parameters or gradients of a step are not those that the optimizer was made for.
    #[error("optimizer: parameter {name}: {reason}")]
    Parameter {
        /// The parameter.
        name: String,
        /// What differs.
        reason: String,
    },
    /// A saved state does not fit this optimizer.
    #[error("optimizer state{}: {name}: {reason}", in_file(.path))]
    State {
        /// The file, if it came from one.
        path: Option<PathBuf>,
        /// The state's name, or the parameter's.
        name: String,
        /// What differs.
        reason: String,
    },
    /// Too many steps in a row had gradients that are not finite.
    #[error(
        "the gradients of {steps} steps in a row were not finite; \
         lower the learning rate, warm up longer, or look at the data of these steps"
    )]
    NonFinite {
        /// How many.
        steps: u64,
    },
}

fn in_file(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default()
}

/// Refuses `value` of the setting `key` unless it `holds` and is finite.
pub(crate) fn check(key: &str, value: f64, holds: bool, reason: &str) -> Result<()> {
    if holds && value.is_finite() {
        return Ok(());
    }
    Err(Error::Config { key: key.into(), value: value.to_string(), reason: reason.into() })
}
