//! `bert4rs presets`: the presets listed, shown in full, or held against each other.

use std::collections::BTreeMap;
use std::process::ExitCode;

use bert4rs_train::Result;
use bert4rs_train::config::{Config, leaves, resolve};
use bert4rs_train::output::print_line;
use bert4rs_train::presets::{PRESETS, Preset, note_on_speed, overlays};

use crate::flags::{PresetsAction, PresetsFlags};

pub(crate) fn run(flags: &PresetsFlags) -> Result<ExitCode> {
    match &flags.action {
        None => list()?,
        Some(PresetsAction::Show { names }) => {
            show(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Some(PresetsAction::Diff { left, right }) => diff(left, right)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list() -> Result<()> {
    for preset in PRESETS {
        let note = note_on_speed(&[preset.name])?;
        let note = note.map(|note| format!(" ({note})")).unwrap_or_default();
        print_line(&format!("{:<14}{}{note}", preset.name, preset.summary()))?;
    }
    Ok(())
}

fn show(names: &[&str]) -> Result<()> {
    let config = resolve(&overlays(names)?)?;
    for name in names {
        print_line(&format!("# {name}: {}", Preset::named(name)?.summary()))?;
    }
    if let Some(note) = note_on_speed(names)? {
        print_line(&format!("# {note}"))?;
    }
    print_line(&format!("\n{}", config.to_toml()?.trim_end()))
}

/// A line for each key that differs: the key, the value of `left`, that of `right`.
fn diff(left: &str, right: &str) -> Result<()> {
    let [left_values, right_values] = [values(left)?, values(right)?];
    let keys =
        left_values.keys().chain(right_values.keys().filter(|k| !left_values.contains_key(*k)));
    let value = |values: &BTreeMap<String, String>, key| {
        values.get(key).cloned().unwrap_or_else(|| "none".into())
    };
    let rows: Vec<[String; 3]> = keys
        .map(|key| [key.clone(), value(&left_values, key), value(&right_values, key)])
        .filter(|[_, left, right]| left != right)
        .collect();
    if rows.is_empty() {
        return print_line(&format!("{left} and {right} lead to the same values"));
    }
    let head = ["key", left, right].map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let (first, second) = (width(0), width(1));
    for [key, left, right] in [&head].into_iter().chain(&rows) {
        print_line(&format!("{key:<first$}  {left:<second$}  {right}"))?;
    }
    Ok(())
}

/// All values that presets, `A+B`, lead to, as TOML writes them.
fn values(names: &str) -> Result<BTreeMap<String, String>> {
    let config: Config = resolve(&overlays(&names.split('+').collect::<Vec<_>>())?)?;
    let table = config.to_table()?;
    Ok(leaves(&table).into_iter().map(|(key, value)| (key, value.to_string())).collect())
}
