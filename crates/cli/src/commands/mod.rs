//! One file a command.

pub(crate) mod batches;
pub(crate) mod cache;
pub(crate) mod completions;
mod config;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod embed;
pub(crate) mod fill_mask;
pub(crate) mod finetune;
pub(crate) mod forward;
pub(crate) mod generate;
pub(crate) mod launch;
mod place;
pub(crate) mod predict;
pub(crate) mod presets;
pub(crate) mod profile;
pub(crate) mod report;
pub(crate) mod runs;
mod sweep;
pub(crate) mod tokenizer;
pub(crate) mod train;

use std::io::Write;
use std::path::Path;

use bert4rs_data::read_text;
use bert4rs_tensor_core::Error as Core;
use bert4rs_train::Result;

/// Prints a remark, which is no part of a command's result, to standard error.
fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The error for something in `path`.
fn refuse(path: &Path, reason: impl Into<String>) -> bert4rs_train::Error {
    Core::File { path: path.to_owned(), reason: reason.into() }.into()
}

/// The error for a flag.
fn refuse_flag(flag: &str, reason: &str) -> bert4rs_train::Error {
    let (origin, key) = ("command line".into(), flag.into());
    bert4rs_train::Error::Config { origin, key, reason: reason.into() }
}

/// Names the flag in an error about its value.
fn of_flag(flag: &'static str, error: bert4rs_models::Error) -> bert4rs_models::Error {
    use bert4rs_models::Error;
    match error {
        Error::Input { found, expected, .. } => Error::Input { name: flag, found, expected },
        other => other,
    }
}

/// Refuses 0, naming the flag.
fn at_least_one(flag: &'static str, value: usize) -> Result<()> {
    if value > 0 {
        return Ok(());
    }
    let (found, expected) = ("0".into(), "at least 1".into());
    Err(bert4rs_models::Error::Input { name: flag, found, expected }.into())
}

/// `texts`, and the lines of `file`, of which there is at least one.
fn texts_of(texts: &[String], file: Option<&Path>) -> Result<Vec<String>> {
    let mut all = texts.to_vec();
    if let Some(path) = file {
        let text = read_text(path)?;
        all.extend(text.lines().map(str::to_owned));
        if all.is_empty() {
            return Err(refuse(path, "is empty; expected a text a line"));
        }
    }
    Ok(all)
}

/// Refuses, before any work, to write where something is kept or nothing can be.
fn output_file(path: &Path, overwrite: bool, model: &Path, inputs: &[&Path]) -> Result<()> {
    let refuse =
        |reason: &str| Err(Core::File { path: path.to_owned(), reason: reason.to_owned() }.into());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if parent.is_some_and(|parent| !parent.is_dir()) {
        return refuse("its folder does not exist; make it, or choose another --output");
    }
    let folder = parent.unwrap_or(Path::new(".")).canonicalize();
    if folder.is_ok_and(|folder| model.canonicalize().is_ok_and(|model| model == folder)) {
        return refuse("is in the model's folder; choose another place with --output");
    }
    if path.is_dir() {
        return refuse("is a folder; name a file with --output");
    }
    if path.exists() && !overwrite {
        return refuse("exists; choose another file with --output, or add --overwrite");
    }
    let same = |input: &&&Path| match (input.canonicalize(), path.canonicalize()) {
        (Ok(input), Ok(output)) => input == output,
        _ => false,
    };
    match inputs.iter().find(same) {
        Some(_) => refuse("is also the input; choose another file with --output"),
        None => Ok(()),
    }
}
