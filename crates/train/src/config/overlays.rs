//! Presets, files and flags laid over each other, and what is wrong with them said by key.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::Config;
use super::vocabulary::with_vocabulary;
use super::words::explain;
use crate::error::{Error, Result, shorten};
use crate::presets::BASELINE;

/// Values from one place. Later overlays win.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// The file, preset or flag that errors name.
    pub origin: String,
    /// The values.
    pub values: Table,
}

impl Overlay {
    /// Reads a TOML file, such as the one that `--config` names.
    ///
    /// # Errors
    /// A file that can't be read, is no text, or is no TOML.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path.display().to_string(), &bert4rs_data::read_text(path)?)
    }

    /// Reads TOML text.
    pub fn parse(origin: impl Into<String>, text: &str) -> Result<Self> {
        let origin = origin.into();
        let values = text.parse::<Table>().map_err(|error| Error::Toml {
            origin: origin.clone(),
            reason: shorten_lines(error.to_string().trim_end()),
        })?;
        Ok(Self { origin, values })
    }

    /// One value, such as that of a flag. `key` has the form `data.seq_len`.
    pub fn single(origin: impl Into<String>, key: &str, value: impl Into<Value>) -> Self {
        Self { origin: origin.into(), values: nested(key, value.into()) }
    }

    /// Its value of `key`, if it has one.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        let (first, rest) = key.split_once('.').unwrap_or((key, ""));
        let found = self.values.get(first)?;
        rest.split('.')
            .filter(|part| !part.is_empty())
            .try_fold(found, |value, part| value.get(part))
    }
}

/// A parser's message shows the line at fault, which may be long.
fn shorten_lines(text: &str) -> String {
    text.lines().map(shorten).collect::<Vec<_>>().join("\n")
}

/// Reads `key=value`, the form that `--set` takes. A value that is no TOML is a string.
pub fn parse_assignment(text: &str) -> Result<Overlay> {
    let bad = |reason: &str| Error::Config {
        origin: "--set".into(),
        key: shorten(text),
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
    Ok(Overlay::single(format!("--set {key}"), key, value))
}

/// `a.b = value` as nested tables.
pub(crate) fn nested(key: &str, value: Value) -> Table {
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

/// Lays `overlays` over the baseline, the last one on top, and checks the result.
///
/// # Errors
/// The first unknown key with the nearest valid one, value of a wrong type, or value that can't
/// be used, and the overlay that it came from.
pub fn resolve(overlays: &[Overlay]) -> Result<Config> {
    let overlays = &with_vocabulary(with_init(overlays)?, PRETRAINING.origin)[..];
    let config: Config = lay_over(&PRETRAINING, overlays)?;
    config.validate().map_err(|fault| fault_in(&PRETRAINING, overlays, fault))?;
    Ok(config)
}

/// All keys of one kind of configuration, with their defaults.
pub(crate) struct Defaults {
    /// What errors name where a default is at fault.
    pub(crate) origin: &'static str,
    /// The values.
    pub(crate) toml: &'static str,
    /// How to see all keys.
    pub(crate) help: &'static str,
}

const PRETRAINING: Defaults = Defaults {
    origin: "preset baseline",
    toml: BASELINE.toml,
    help: "`bert4rs presets show baseline` prints all",
};

impl Defaults {
    /// Every valid key, in the order of the file.
    pub(super) fn keys(&self) -> Result<Vec<String>> {
        Ok(leaves(&self.values()?).into_iter().map(|(key, _)| key).collect())
    }

    fn values(&self) -> Result<Table> {
        Overlay::parse(self.origin, self.toml).map(|overlay| overlay.values)
    }
}

/// Lays `overlays` over `defaults`, the last one on top.
///
/// # Errors
/// The first unknown key with the nearest valid one, or value of a wrong type, and the overlay
/// that it came from.
pub(crate) fn lay_over<C: DeserializeOwned>(
    defaults: &Defaults,
    overlays: &[Overlay],
) -> Result<C> {
    let mut merged = defaults.values()?;
    for overlay in overlays {
        if let Some(file) = value_at(&mut merged, "model.file")
            && overlay.value("model.file").is_some()
        {
            // Another model's keys don't go with those of this one.
            *file = Table::new().into();
        }
        merge(&mut merged, &overlay.values);
        deserialize::<C>(defaults, &overlay.origin, &merged)?;
    }
    deserialize(defaults, defaults.origin, &merged)
}

/// The overlays with what the folder that `model.init` names brings with it: over presets and
/// files, and below flags, which may ask for a larger vocabulary. A run's own `config.toml` has it
/// already.
fn with_init(overlays: &[Overlay]) -> Result<Vec<Overlay>> {
    let mut all = overlays.to_vec();
    let Some(from) = overlays.iter().rposition(|overlay| overlay.value("model.init").is_some())
    else {
        return Ok(all);
    };
    let Some(Value::String(init)) = overlays[from].value("model.init") else { return Ok(all) };
    let file = overlays[from].value("model.file").and_then(Value::as_table);
    if init.is_empty() || file.is_some_and(|file| !file.is_empty()) {
        return Ok(all);
    }
    let is_flag = |overlay: &Overlay| overlay.origin.starts_with("--");
    let place = overlays.iter().position(is_flag).unwrap_or(overlays.len());
    all.insert(place, super::pretrained::overlay(init)?);
    Ok(all)
}

/// The same for a run on this machine.
///
/// # Errors
/// Also what asks for more memory or threads than this machine has.
pub fn resolve_to_run(overlays: &[Overlay]) -> Result<Config> {
    let config = resolve(overlays)?;
    config.check_limits().map_err(|fault| fault_in(&PRETRAINING, overlays, fault))?;
    Ok(config)
}

/// A fault of a key, with the overlay that its value came from.
pub(crate) fn fault_in(
    defaults: &Defaults,
    overlays: &[Overlay],
    (key, reason): (String, String),
) -> Error {
    Error::Config { origin: origin_of(defaults, &key, overlays), key, reason }
}

/// Every valid key, in the order of the baseline's file.
pub fn known_keys() -> Result<Vec<String>> {
    PRETRAINING.keys()
}

/// The values in `table` and its sections by their whole keys, such as `data.seq_len`.
pub fn leaves(table: &Table) -> Vec<(String, &Value)> {
    fn collect<'a>(table: &'a Table, prefix: &str, found: &mut Vec<(String, &'a Value)>) {
        for (name, value) in table {
            match value {
                Value::Table(inner) => collect(inner, &format!("{prefix}{name}."), found),
                _ => found.push((format!("{prefix}{name}"), value)),
            }
        }
    }
    let mut found = Vec::new();
    collect(table, "", &mut found);
    found
}

fn deserialize<C: DeserializeOwned>(
    defaults: &Defaults,
    origin: &str,
    values: &Table,
) -> Result<C> {
    read::<C>(values).map_err(|error| {
        let words = error.inner().message();
        let mut key = error.path().to_string();
        // A list where a choice stands is read as the choice's name and what belongs to it.
        if words.ends_with("variant identifier")
            && let Some((whole, _)) = key.rsplit_once('[')
        {
            key.truncate(whole.len());
        }
        let try_value = |value| {
            let mut values = values.clone();
            *value_at(&mut values, &key)? = value;
            Some(read::<C>(&values).err()?.inner().message().to_owned())
        };
        match explain(words, defaults, try_value) {
            Ok(reason) => Error::Config { origin: origin.to_owned(), key, reason },
            Err(error) => error,
        }
    })
}

fn read<C: DeserializeOwned>(
    values: &Table,
) -> std::result::Result<C, serde_path_to_error::Error<toml::de::Error>> {
    serde_path_to_error::deserialize(Value::Table(values.clone()))
}

/// The value of `key`, if there is one.
fn value_at<'a>(values: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    let (sections, name) =
        key.rsplit_once('.').map_or((None, key), |(all, name)| (Some(all), name));
    let mut table = values;
    for section in sections.into_iter().flat_map(|sections| sections.split('.')) {
        table = table.get_mut(section)?.as_table_mut()?;
    }
    table.get_mut(name)
}

/// Where the value of `key` came from: the last overlay that sets it, else the defaults.
fn origin_of(defaults: &Defaults, key: &str, overlays: &[Overlay]) -> String {
    let sets = |overlay: &&Overlay| {
        let mut parts = key.split('.').peekable();
        let mut table = &overlay.values;
        while let Some(part) = parts.next() {
            match table.get(part) {
                Some(Value::Table(inner)) if parts.peek().is_some() => table = inner,
                Some(_) => return parts.peek().is_none(),
                None => return false,
            }
        }
        false
    };
    overlays
        .iter()
        .rev()
        .find(sets)
        .map_or_else(|| defaults.origin.to_owned(), |overlay| overlay.origin.clone())
}

/// Lays `top` over `base`. A section is merged, but one that makes a choice is replaced, as the
/// keys of the choice that was there before may not go with the new one; `"none"` removes a
/// section that may be absent.
pub(crate) fn merge(base: &mut Table, top: &Table) {
    for (name, value) in top {
        match (base.get_mut(name), value) {
            (Some(Value::Table(_)), Value::String(none)) if none == "none" => {
                base.remove(name);
            }
            (Some(Value::Table(base)), Value::Table(top)) if !makes_choice(base, top) => {
                merge(base, top);
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
        ["shape", "kind", "steps", "fraction", "minutes"].iter().any(|key| table.contains_key(*key))
    };
    chooses(base) && chooses(top)
}
