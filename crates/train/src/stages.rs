//! Batches whose sequences are short at first.

use bert4rs_data::Staged;

use crate::config::Config;
use crate::error::Result;

/// Batches of a run on `ranks` that sees all text `epochs` times, or takes `max_steps` steps.
pub(crate) fn total_batches(config: &Config, epoch_batches: u64, ranks: usize) -> u64 {
    let train = &config.train;
    match train.epochs {
        0 => train.max_steps.saturating_mul(train.accumulate.into()).saturating_mul(ranks as u64),
        epochs => epoch_batches.saturating_mul(epochs.into()),
    }
}

/// The `total` batches of a run: those that `make` makes of sequences of `data.short_seq_len`
/// tokens, for `data.short_share` of them, then those of `full`. `place` is told how many batches
/// there are and how many come before, for what changes in the course of a run.
///
/// # Errors
/// What `make` and `place` refuse.
pub(crate) fn staged<S>(
    config: &Config,
    full: S,
    total: u64,
    make: impl FnOnce(usize) -> Result<S>,
    place: impl Fn(S, u64, u64) -> Result<S>,
) -> Result<Staged<S>> {
    let data = &config.data;
    if data.short_seq_len == 0 {
        return Ok(Staged::only(place(full, total, 0)?));
    }
    let short = (data.short_share * total as f64).round() as u64;
    let first = place(make(data.short_seq_len as usize)?, total, 0)?;
    Ok(Staged::new(first, short, place(full, total, short)?))
}
