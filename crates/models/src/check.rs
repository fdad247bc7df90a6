//! Checks of configurations, each naming key and value.

use crate::error::{Error, Result};

/// The most blocks of a model: several times the deepest that was published.
pub(crate) const MOST_LAYERS: i64 = 4096;

/// The largest size of an axis, so that products of two fit into 64 bits.
const LARGEST_SIZE: i64 = i32::MAX as i64;

/// Refuses sizes and counts below 1, and those that no tensor can have.
pub(crate) fn check_sizes(values: &[(&'static str, i64)]) -> Result<()> {
    values.iter().try_for_each(|&(key, value)| check_limit(key, value, LARGEST_SIZE))
}

/// Refuses numbers of blocks that no model has.
pub(crate) fn check_layers(key: &'static str, count: i64) -> Result<()> {
    check_limit(key, count, MOST_LAYERS)
}

fn check_limit(key: &'static str, value: i64, most: i64) -> Result<()> {
    match value {
        value if value < 1 => Err(Error::config(key, value, "must be at least 1")),
        value if value > most => Err(Error::config(key, value, format!("must be at most {most}"))),
        _ => Ok(()),
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
