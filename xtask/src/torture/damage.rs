//! Checkpoints with a changed byte, or without a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::Rng;

use super::bench::{Bench, STEPS};
use super::broken;
use crate::error::{Error, Result};

/// Changes each file of the newest checkpoint, and removes each.
pub(super) fn run(bench: &Bench, random: &mut impl Rng) -> Result<String> {
    let newest = bench.whole().join(format!("checkpoints/step-{STEPS}"));
    let mut names: Vec<String> = fs::read_dir(&newest)
        .map_err(Error::at(&newest))?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let mut cases = 0;
    for name in &names {
        for _ in 0..3 {
            check(bench, name, |path| flip(path, random))?;
            cases += 1;
        }
        check(bench, name, |path| fs::remove_file(path).map_err(Error::at(path)))?;
        cases += 1;
    }
    Ok(format!(
        "{cases} of {cases} found, told and gone on from to the bit: 3 changed bytes in and the \
         absence of each of {}",
        names.join(", ")
    ))
}

/// A run whose newest checkpoint has `name` damaged says so, and goes on from the one before.
fn check(bench: &Bench, name: &str, damage: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let run = copy(bench)?;
    let newest = run.join(format!("checkpoints/step-{STEPS}"));
    damage(&newest.join(name))?;
    let wrong = |what: &str| broken(format!("{name} was damaged: {what}"));
    // A manifest tells of itself only by what it says of the others.
    if name != "manifest.json" {
        let asked = newest.display().to_string();
        let output = bench.output(&run, &["--resume", &asked])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let before = format!("step-{}", STEPS - 1);
        if output.status.code() != Some(2) || !error.contains(name) || !error.contains(&before) {
            return Err(wrong(&format!("{}, and said: {error}", output.status)));
        }
    }
    let shown = bench.finish(&run, &["--resume", "auto"])?;
    let went_on = format!("after step {}", STEPS - 1);
    if name != "manifest.json" && !(shown.contains(name) && shown.contains(&went_on)) {
        return Err(wrong(&format!("--resume auto said: {shown}")));
    }
    bench.check_result(&run)?;
    fs::remove_dir_all(&run).map_err(Error::at(&run))
}

/// A copy of the undisturbed run with its two newest checkpoints.
fn copy(bench: &Bench) -> Result<PathBuf> {
    let run = bench.folder().join("damaged");
    let mut cp = Command::new("cp");
    let status = cp.arg("-r").arg(bench.whole()).arg(&run).status();
    if !status.map_err(Error::at(Path::new("cp")))?.success() {
        return Err(broken("the run could not be copied"));
    }
    let folder = run.join("checkpoints");
    for step in 0..STEPS - 1 {
        let path = folder.join(format!("step-{step}"));
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::at(&path))?;
        }
    }
    Ok(run)
}

/// Changes one bit of a byte.
fn flip(path: &Path, random: &mut impl Rng) -> Result<()> {
    let mut bytes = fs::read(path).map_err(Error::at(path))?;
    let place = random.random_range(0..bytes.len());
    bytes[place] ^= 1 << random.random_range(0..8u32);
    fs::write(path, bytes).map_err(Error::at(path))
}
