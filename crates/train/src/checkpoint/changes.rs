//! Which settings may differ when a run goes on.

use toml::{Table, Value};

use crate::config::leaves;
use crate::error::Result;

/// Keys, or sections, that may differ without a bit of the run being another.
const HARMLESS: [&str; 10] = [
    "task.test",
    "train.log_every",
    "train.eval_every",
    "train.tensorboard",
    "train.update_ratio_every",
    "train.eval_sequences",
    "data.prefetch",
    "data.workers",
    "checkpoint",
    "distributed",
];
/// Those that may differ, though bits may then differ too.
const ALLOWED: [&str; 15] = [
    "train.max_steps",
    "train.epochs",
    // Of more or fewer processes: their product may not change.
    "train.accumulate",
    "optimizer.sharding",
    "train.max_minutes",
    "train.patience",
    "train.min_delta",
    "train.on_nan",
    "train.on_spike",
    "train.spike_nats",
    "compute.device",
    "compute.threads",
    "compute.execution",
    "compute.cpu_isa",
    "compute.backends",
];

/// What differs between the settings of a run that was, and those that it is to go on with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Settings that may change, but with them the bits of the run.
    pub notes: Vec<String>,
    /// Settings that would make it another run.
    pub refused: Vec<String>,
}

/// Compares settings.
///
/// # Errors
/// Text that is no TOML.
pub fn compare(before: &str, now: &str) -> Result<Changes> {
    let [before, now] = [before, now].map(|text| text.parse::<Table>());
    let (before, now) = (before.map_err(not_toml)?, now.map_err(not_toml)?);
    let (before, now) = (leaves(&before), leaves(&now));
    let find = |all: &[(String, &Value)], key: &str| {
        let found = all.iter().find(|(other, _)| other == key);
        found.map_or_else(|| "none".to_owned(), |(_, value)| value.to_string())
    };
    let mut keys: Vec<&String> = before.iter().chain(&now).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let mut changes = Changes::default();
    for key in keys {
        let (old, new) = (find(&before, key), find(&now, key));
        if old == new || is_among(key, &HARMLESS) {
            continue;
        }
        let line = format!("{key} was {old} and is {new}");
        let list = if is_among(key, &ALLOWED) { &mut changes.notes } else { &mut changes.refused };
        list.push(line);
    }
    Ok(changes)
}

/// Whether `key` is one of `names`, or in one of these sections.
fn is_among(key: &str, names: &[&str]) -> bool {
    names.iter().any(|name| {
        key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

fn not_toml(error: toml::de::Error) -> crate::Error {
    crate::Error::Toml { origin: "the checkpoint's config.toml".into(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_harmless_noted_or_refused() {
        let before = "[train]\nmax_steps = 5\nlog_every = 1\n[model]\nhidden_size = 32\n";
        let now =
            "[train]\nmax_steps = 9\nlog_every = 2\n[model]\nhidden_size = 64\nkv_heads = 1\n";
        let changes = compare(before, now).unwrap();
        assert_eq!(changes.notes, ["train.max_steps was 5 and is 9"]);
        let refused = ["model.hidden_size was 32 and is 64", "model.kv_heads was none and is 1"];
        assert_eq!(changes.refused, refused);
        assert_eq!(compare(now, now).unwrap(), Changes::default());
    }
}
