//! Checks of configurations, each naming key and value.

use crate::error::{Error, Result};

/// Refuses sizes and counts below 1.
pub(crate) fn check_positive(values: &[(&'static str, i64)]) -> Result<()> {
    match values.iter().find(|(_, value)| *value < 1) {
        Some((key, value)) => Err(Error::config(key, value, "must be at least 1")),
        None => Ok(()),
    }
}

/// Refuses a divisor that does not divide.
pub(crate) fn check_divides(divisor: (&'static str, i64), of: (&str, i64)) -> Result<()> {
    if of.1 % divisor.1 == 0 {
        return Ok(());
    }
    Err(Error::config(divisor.0, divisor.1, format!("does not divide {} = {}", of.0, of.1)))
}

/// Refuses what is not a probability of dropping.
pub(crate) fn check_probabilities(values: &[(&'static str, f64)]) -> Result<()> {
    match values.iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
        Some((key, value)) => Err(Error::config(key, value, "must be at least 0 and below 1")),
        None => Ok(()),
    }
}

/// Refuses what is not a finite number above 0.
pub(crate) fn check_scales(values: &[(&'static str, f64)]) -> Result<()> {
    match values.iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
        Some((key, value)) => Err(Error::config(key, value, "must be above 0")),
        None => Ok(()),
    }
}

/// Refuses a token that the vocabulary does not have.
pub(crate) fn check_token(key: &'static str, id: Option<i64>, vocab_size: i64) -> Result<()> {
    match id {
        Some(id) if !(0..vocab_size).contains(&id) => {
            let reason = format!("must be a token, below vocab_size = {vocab_size}");
            Err(Error::config(key, id, reason))
        }
        _ => Ok(()),
    }
}
