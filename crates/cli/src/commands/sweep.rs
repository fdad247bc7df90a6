//! `bert4rs train --sweep`: a run for each combination of values, and what came of them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bert4rs_tensor_core::Error as Core;
use bert4rs_tensor_core::safetensors::write_atomic;
use bert4rs_train::config::parse_assignment;
use bert4rs_train::output::print_line;
use bert4rs_train::report::{RecordedRun, report};
use bert4rs_train::run_folder::default_path;
use bert4rs_train::{Error, Result};

use super::refuse;
use super::runs::print_table;
use super::train::{config_to_run, overlays};
use crate::flags::TrainCommandFlags;

/// The page of all curves, in the sweep's folder.
const REPORT: &str = "report.html";

/// Trains one after the other, each in a process of its own: what one leaves in memory, or breaks,
/// is not the next one's.
pub(crate) fn run(flags: &TrainCommandFlags) -> Result<ExitCode> {
    let combinations = combinations(&flags.sweep)?;
    let own = overlays(&flags.run)?;
    for combination in &combinations {
        let mut overlays = own.clone();
        for assignment in combination {
            overlays.push(parse_assignment(assignment)?);
        }
        config_to_run(&overlays)?;
    }
    let folder = flags.run.out.clone().unwrap_or_else(|| default_path("sweep"));
    claim(&folder, flags.run.overwrite)?;
    let mut paths = Vec::new();
    let mut all_succeeded = true;
    for (index, combination) in combinations.iter().enumerate() {
        let (number, of) = (index + 1, combinations.len());
        print_line(&format!("\nrun {number} of {of}: {}", combination.join(", ")))?;
        let path = folder.join(name(number, combination));
        all_succeeded &= train(&path, combination)?;
        paths.push(path);
    }
    let runs: Vec<RecordedRun> =
        paths.iter().filter_map(|path| RecordedRun::read(path).ok()).collect();
    print_line("")?;
    print_table(&runs)?;
    let page = folder.join(REPORT);
    write_atomic(&page, report(&runs).as_bytes())?;
    print_line(&format!("\ncurves in {}", page.display()))?;
    Ok(if all_succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every combination of the values of `KEY=A,B`, as assignments, the first key's values slowest.
fn combinations(sweeps: &[String]) -> Result<Vec<Vec<String>>> {
    let mut all = vec![Vec::new()];
    for sweep in sweeps {
        let bad = || Error::Config {
            origin: "--sweep".into(),
            key: sweep.clone(),
            reason: "expected KEY=A,B, such as optimizer.adamw.lr=1e-4,3e-4".into(),
        };
        let (key, values) = sweep.split_once('=').ok_or_else(bad)?;
        let values = values_of(values);
        if key.is_empty() || values.iter().any(|value| value.is_empty()) {
            return Err(bad());
        }
        let with = |so_far: &Vec<String>| -> Vec<Vec<String>> {
            let assignments = values.iter().map(|value| format!("{key}={value}"));
            assignments.map(|last| [&so_far[..], &[last]].concat()).collect()
        };
        all = all.iter().flat_map(with).collect();
    }
    Ok(all)
}

/// The parts between commas that stand in no brackets.
fn values_of(text: &str) -> Vec<&str> {
    let mut depth = 0i32;
    let parts = text.split(|letter| {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    });
    parts.map(str::trim).collect()
}

/// Makes the sweep's folder, which runs are not to be mixed in.
fn claim(folder: &Path, overwrite: bool) -> Result<()> {
    let io = |source| Error::from(Core::Io { path: folder.to_owned(), source });
    fs::create_dir_all(folder).map_err(io)?;
    let is_empty = fs::read_dir(folder).map_err(io)?.next().is_none();
    if is_empty || overwrite {
        return Ok(());
    }
    Err(refuse(folder, "is not empty; choose another folder with --out, or add --overwrite"))
}

/// `01-lr=3e-4,seed=1`: the keys' last parts, and no letter that a path has a use for.
fn name(number: usize, combination: &[String]) -> String {
    let short = |assignment: &String| {
        let (key, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        format!("{}={value}", key.rsplit('.').next().unwrap_or(key))
    };
    let name = combination.iter().map(short).collect::<Vec<_>>().join(",");
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "=.,+-_".contains(letter);
    let name: String = name.chars().map(|l| if plain(l) { l } else { '_' }).take(100).collect();
    format!("{number:02}-{name}")
}

/// Trains into `path` with this program's own arguments and the combination's; whether it went
/// well.
fn train(path: &Path, combination: &[String]) -> Result<bool> {
    let program = PathBuf::from("/proc/self/exe");
    let mut command = Command::new(&program);
    command.args(without(std::env::args_os().skip(1), &["--sweep", "--out"]));
    command.arg("--out").arg(path);
    combination.iter().for_each(|assignment| {
        command.arg("--set").arg(assignment);
    });
    let status = command.status().map_err(|source| Core::Io { path: program, source })?;
    Ok(status.success())
}

/// Arguments without those flags and their values.
fn without(args: impl Iterator<Item = OsString>, flags: &[&str]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut args = args;
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let name = text.split('=').next().unwrap_or_default();
        if !flags.contains(&name) {
            kept.push(arg);
        } else if !text.contains('=') {
            args.next();
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_all_of_them() {
        let sweeps = ["lr=1,2", "positions={ kind = \"rope\", theta = 1.0 },published"];
        let found = combinations(&sweeps.map(str::to_owned)).unwrap();
        assert_eq!(found.len(), 4);
        assert_eq!(found[1], ["lr=1", "positions=published"]);
        assert!(found[2][1].ends_with("theta = 1.0 }"), "{found:?}");
        for bad in ["lr", "=1,2", "lr=", "lr=1,,2"] {
            assert!(combinations(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn folders_have_plain_names() {
        let combination = ["optimizer.adamw.lr=3e-4".to_owned(), "a/b=../c".to_owned()];
        assert_eq!(name(3, &combination), "03-lr=3e-4,a_b=.._c");
    }

    #[test]
    fn the_sweeps_own_flags_are_not_handed_on() {
        let args = ["train", "--sweep", "seed=1,2", "--out=x", "--set", "a=1", "--sweep=b=1"];
        let kept = without(args.into_iter().map(OsString::from), &["--sweep", "--out"]);
        assert_eq!(kept, ["train", "--set", "a=1"]);
    }
}
