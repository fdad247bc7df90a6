//! A small run that takes seconds, and what must be equal of two of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::broken;
use crate::checkout::Checkout;
use crate::error::{Error, Result};
use crate::program;

/// Steps of the run.
pub(super) const STEPS: u64 = 120;

/// A small model with all that a checkpoint may have to hold: dropout, accumulation, averages, and
/// measurements on the way.
const FLAGS: &str = "--max-steps 120 --batch-size 2 --seq-len 32 --hidden-size 32 --num-layers 1 \
     --num-heads 2 --vocab-size 400 --seed 1 --device cpu --checkpoint-every 1 \
     --set train.log_every=2 --set train.eval_sequences=4 --set train.eval_every=10 \
     --set data.held_out=0.1 --set model.dropout=0.1 --set train.accumulate=2 \
     --set train.ema_decay=0.9 --set compute.threads=1";

/// The files of a checkpoint that two runs must have alike.
const STATE: [&str; 5] = [
    "weights.safetensors",
    "optimizer.safetensors",
    "buffers.safetensors",
    "average.safetensors",
    "state.json",
];
/// The same of a finished run.
const RESULT: [&str; 2] = ["model.safetensors", "model-ema/model.safetensors"];
/// Numbers of a step that don't depend on the clock.
const NUMBERS: [&str; 6] = ["step", "loss", "grad_norm", "tokens", "lr", "held_out"];

/// A folder with a corpus, and the undisturbed run `whole`, with a checkpoint of each step.
pub(super) struct Bench<'a> {
    checkout: &'a Checkout,
    program: PathBuf,
    folder: PathBuf,
}

impl<'a> Bench<'a> {
    pub(super) fn new(checkout: &'a Checkout, program: PathBuf) -> Result<Self> {
        let name = format!("bert4rs-torture-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).map_err(Error::at(&folder))?;
        let docs = checkout.root().join("docs/architecture.md");
        let text = fs::read_to_string(&docs).map_err(Error::at(&docs))?;
        let corpus = folder.join("corpus.txt");
        fs::write(&corpus, text.repeat(4)).map_err(Error::at(&corpus))?;
        let bench = Self { checkout, program, folder };
        let keep = STEPS.to_string();
        bench.finish(&bench.folder.join("whole"), &["--keep", &keep])?;
        Ok(bench)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(Error::at(&self.folder))
    }

    pub(super) fn whole(&self) -> PathBuf {
        self.folder.join("whole")
    }

    /// The run in `out`, with more flags.
    pub(super) fn command(&self, out: &Path, more: &[&str]) -> Command {
        let mut command = program::command(self.checkout, &self.program);
        command.arg("train").args(FLAGS.split_whitespace());
        command.arg("--corpus").arg(self.folder.join("corpus.txt")).arg("--out").arg(out);
        command.args(more).env("XDG_CACHE_HOME", self.folder.join("cache"));
        command
    }

    pub(super) fn start(&self, out: &Path, more: &[&str]) -> Result<Child> {
        let mut command = self.command(out, more);
        let log = self.folder.join("output.txt");
        let output = fs::File::create(&log).map_err(Error::at(&log))?;
        let errors = output.try_clone().map_err(Error::at(&log))?;
        command.stdout(Stdio::from(output)).stderr(Stdio::from(errors));
        command.spawn().map_err(Error::at(&self.program))
    }

    pub(super) fn output(&self, out: &Path, more: &[&str]) -> Result<Output> {
        self.command(out, more).output().map_err(Error::at(&self.program))
    }

    /// Lets the run in `out` come to its end; what it showed.
    pub(super) fn finish(&self, out: &Path, more: &[&str]) -> Result<String> {
        let output = self.output(out, more)?;
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(shown),
            false => Err(broken(format!(
                "{} {}: {}",
                out.display(),
                more.join(" "),
                String::from_utf8_lossy(&output.stderr)
            ))),
        }
    }

    /// Refuses a finished run that is not the undisturbed one to the bit.
    pub(super) fn check_result(&self, run: &Path) -> Result<()> {
        for name in RESULT {
            same_file(&run.join(name), &self.whole().join(name))?;
        }
        self.check_checkpoint(run, STEPS)?;
        let (found, expected) = (numbers(run)?, numbers(&self.whole())?);
        match found == expected {
            true => Ok(()),
            false => Err(broken(format!("{}: its metrics differ", run.display()))),
        }
    }

    /// Refuses a checkpoint that is not the undisturbed run's to the bit.
    pub(super) fn check_checkpoint(&self, run: &Path, step: u64) -> Result<()> {
        let of = |run: &Path| run.join(format!("checkpoints/step-{step}"));
        let (found, expected) = (of(run), of(&self.whole()));
        STATE.iter().try_for_each(|name| same_file(&found.join(name), &expected.join(name)))
    }
}

/// The steps of the checkpoints in `run` that have a manifest, sorted.
pub(super) fn checkpoints(run: &Path) -> Vec<u64> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let complete = entries.filter(|entry| entry.path().join("manifest.json").is_file());
    let step = |name: &str| name.strip_prefix("step-")?.parse().ok();
    let mut steps: Vec<u64> =
        complete.filter_map(|entry| step(entry.file_name().to_str()?)).collect();
    steps.sort_unstable();
    steps
}

fn same_file(found: &Path, expected: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).map_err(Error::at(path));
    match read(found)? == read(expected)? {
        true => Ok(()),
        false => Err(broken(format!("{} is not as in an undisturbed run", found.display()))),
    }
}

fn numbers(run: &Path) -> Result<Vec<String>> {
    let path = run.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(Error::at(&path))?;
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        NUMBERS.map(|name| line[name].to_string()).join(" ")
    };
    Ok(text.lines().map(line).collect())
}
