//! Presets, files and flags laid over each other, and what is wrong with them said by key.

use toml::{Table, Value};

use super::Config;
use crate::error::{Error, Result};
use crate::nearest::nearest;
use crate::presets::BASELINE;

/// Values from one place. Later layers win.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The file, preset or flag that errors name.
    pub origin: String,
    /// The values.
    pub values: Table,
}

impl Layer {
    /// Reads TOML text.
    pub fn parse(origin: impl Into<String>, text: &str) -> Result<Self> {
        let origin = origin.into();
        let values = text.parse::<Table>().map_err(|error| Error::Toml {
            origin: origin.clone(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        Ok(Self { origin, values })
    }

    /// One value, such as that of a flag. `key` has the form `data.seq_len`.
    pub fn single(origin: impl Into<String>, key: &str, value: impl Into<Value>) -> Self {
        Self { origin: origin.into(), values: nested(key, value.into()) }
    }
}

/// Reads `key=value`, the form that `--set` takes. A value that is no TOML is a string.
pub fn parse_assignment(text: &str) -> Result<Layer> {
    let bad = |reason: &str| Error::Config {
        origin: "--set".into(),
        key: text.to_owned(),
        reason: reason.into(),
    };
    let (key, value) =
        text.split_once('=').ok_or_else(|| bad("expected key=value, such as data.seq_len=512"))?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.split('.').any(str::is_empty) {
        return Err(bad("expected a key before the =, such as data.seq_len=512"));
    }
    let value = match format!("value = {value}").parse::<Table>() {
        Ok(mut table) if table.len() == 1 => {
            table.remove("value").unwrap_or_else(|| Value::String(value.to_owned()))
        }
        _ => Value::String(value.to_owned()),
    };
    Ok(Layer::single(format!("--set {key}"), key, value))
}

/// `a.b = value` as nested tables.
fn nested(key: &str, value: Value) -> Table {
    let mut parts = key.split('.').rev();
    let mut table = Table::new();
    if let Some(last) = parts.next() {
        table.insert(last.to_owned(), value);
    }
    parts.fold(table, |inner, part| {
        let mut outer = Table::new();
        outer.insert(part.to_owned(), Value::Table(inner));
        outer
    })
}

/// Lays `layers` over the baseline, the last one on top, and checks the result.
///
/// # Errors
/// The first unknown key with the nearest valid one, value of a wrong type, or value that can't
/// be used, and the layer that it came from.
pub fn resolve(layers: &[Layer]) -> Result<Config> {
    let mut merged = baseline()?;
    for layer in layers {
        overlay(&mut merged, &layer.values);
        deserialize(&layer.origin, &merged)?;
    }
    let config = deserialize(&format!("preset {}", BASELINE.name), &merged)?;
    config.validate().map_err(|(key, reason)| Error::Config {
        origin: origin_of(&key, layers),
        key,
        reason,
    })?;
    Ok(config)
}

/// Every valid key, in the order of the baseline's file.
pub fn known_keys() -> Result<Vec<String>> {
    fn collect(table: &Table, prefix: &str, keys: &mut Vec<String>) {
        for (name, value) in table {
            match value {
                Value::Table(inner) => collect(inner, &format!("{prefix}{name}."), keys),
                _ => keys.push(format!("{prefix}{name}")),
            }
        }
    }
    let mut keys = Vec::new();
    collect(&baseline()?, "", &mut keys);
    Ok(keys)
}

fn baseline() -> Result<Table> {
    Layer::parse(format!("preset {}", BASELINE.name), BASELINE.toml).map(|layer| layer.values)
}

fn deserialize(origin: &str, values: &Table) -> Result<Config> {
    let config: std::result::Result<Config, _> =
        serde_path_to_error::deserialize(Value::Table(values.clone()));
    match config {
        Ok(config) => Ok(config),
        Err(error) => Err(Error::Config {
            origin: origin.to_owned(),
            key: error.path().to_string(),
            reason: reason_of(&error)?,
        }),
    }
}

/// serde's words, and for an unknown key the nearest valid one.
fn reason_of(error: &serde_path_to_error::Error<toml::de::Error>) -> Result<String> {
    let words = error.inner().message().to_owned();
    let Some(rest) = words.strip_prefix("unknown field `") else { return Ok(words) };
    // "unknown field `x`, expected one of `a`, `b`": names stand at the odd places.
    let mut names = rest.split('`').step_by(2);
    let unknown = names.next().unwrap_or_default();
    let expected: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let keys = known_keys()?;
    // A forgotten section is the commonest slip: `seq_len` for `data.seq_len`.
    let elsewhere = keys.iter().find(|key| key.rsplit('.').next() == Some(unknown));
    let near = nearest(unknown, expected).or(elsewhere.map(String::as_str));
    Ok(match near {
        Some(near) => format!("no such key; did you mean {near}?"),
        None => "no such key; `bert4rs presets show baseline` prints all".into(),
    })
}

/// Where the value of `key` came from: the last layer that sets it, else the baseline.
fn origin_of(key: &str, layers: &[Layer]) -> String {
    let sets = |layer: &&Layer| {
        let mut parts = key.split('.').peekable();
        let mut table = &layer.values;
        while let Some(part) = parts.next() {
            match table.get(part) {
                Some(Value::Table(inner)) if parts.peek().is_some() => table = inner,
                Some(_) => return parts.peek().is_none(),
                None => return false,
            }
        }
        false
    };
    layers
        .iter()
        .rev()
        .find(sets)
        .map_or_else(|| format!("preset {}", BASELINE.name), |layer| layer.origin.clone())
}

/// Lays `top` over `base`. A section is merged, but one that makes a choice is replaced, as the
/// keys of the choice that was there before may not go with the new one; `"none"` removes a
/// section that may be absent.
fn overlay(base: &mut Table, top: &Table) {
    for (name, value) in top {
        match (base.get_mut(name), value) {
            (Some(Value::Table(_)), Value::String(none)) if none == "none" => {
                base.remove(name);
            }
            (Some(Value::Table(base)), Value::Table(top)) if !makes_choice(base, top) => {
                overlay(base, top);
            }
            _ => {
                base.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Whether `top` chooses anew, as `{ shape = "cosine", ... }`, `{ kind = "rope" }` or `{ steps =
/// 10 }` do, rather than adjusting `base`.
fn makes_choice(base: &Table, top: &Table) -> bool {
    let chooses = |table: &Table| {
        ["shape", "kind", "steps", "fraction"].iter().any(|key| table.contains_key(*key))
    };
    chooses(base) && chooses(top)
}
