//! `cargo xtask test`: everything that must hold before a change goes in, the cheapest first.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use serde::Deserialize;

use crate::checkout::{Checkout, shown};
use crate::error::{Error, Result};
use crate::program::{self, With};
use crate::{console, corpus, kernels, setup, train};

/// Run all checks and tests, the cheapest first, and stop at the first that fails
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the short training runs
    #[arg(long)]
    fast: bool,
}

/// What cargo checks: a name and the arguments.
const CARGO_STEPS: [(&str, &str); 5] = [
    ("format", "fmt --all --check"),
    ("lint", "clippy --workspace --all-targets -- -D warnings"),
    ("test", "test --workspace --lib --bins --tests --examples"),
    ("doc test", "test --workspace --doc"),
    ("doc", "doc --workspace --no-deps"),
];

/// What must learn: a family and a preset.
const RUNS: [(&str, &str); 4] =
    [("bert", "baseline"), ("bert", "recommended"), ("gpt", "recommended"), ("t5", "recommended")];

/// A model small enough that 20 steps take seconds.
const SHORT_RUN: &str = "--max-steps 20 --batch-size 8 --seq-len 64 --hidden-size 64 \
     --num-layers 2 --num-heads 2 --vocab-size 2000 --seed 1 --device cpu --overwrite \
     --set train.log_every=1";

/// Steps that a short run's loss is averaged over, at its start and at its end.
const WINDOW: usize = 5;

/// Runs the steps; ends with the line `N passed, N failed`.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    setup::ensure(checkout)?;
    let mut passed = 0;
    let mut failed = 0;
    for step in steps(args.fast) {
        if step.run(checkout) {
            passed += 1;
        } else {
            failed += 1;
            break;
        }
    }
    console::line(format_args!("\nall steps: {}", console::seconds(started.elapsed())));
    console::line(format_args!("{passed} passed, {failed} failed"));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

enum Step {
    Cargo { name: &'static str, arguments: &'static str },
    Kernels,
    ShortRun { family: &'static str, preset: &'static str },
}

fn steps(fast: bool) -> Vec<Step> {
    let cargo = CARGO_STEPS.iter().map(|&(name, arguments)| Step::Cargo { name, arguments });
    let runs = RUNS.iter().map(|&(family, preset)| Step::ShortRun { family, preset });
    cargo.chain([Step::Kernels]).chain(runs.filter(|_| !fast)).collect()
}

impl Step {
    /// Runs the step, says how it went and how to repeat it; whether it passed.
    fn run(&self, checkout: &Checkout) -> bool {
        let name = self.name();
        let by_hand = self.by_hand(checkout);
        console::line(format_args!("\n== {name}: {by_hand}"));
        let started = Instant::now();
        let result = match self {
            Step::Cargo { arguments, .. } => run_cargo(cargo_command(checkout, arguments)),
            Step::Kernels => kernels::check(checkout),
            Step::ShortRun { family, preset } => short_run(checkout, family, preset),
        };
        let took = console::seconds(started.elapsed());
        match &result {
            Ok(()) => console::line(format_args!("== {name} passed in {took}")),
            Err(error) => {
                console::line(format_args!("== {name} FAILED after {took}: {error}"));
                console::line(format_args!("   repeat it with: {by_hand}"));
            }
        }
        result.is_ok()
    }

    fn name(&self) -> String {
        match self {
            Step::Cargo { name, .. } => (*name).to_owned(),
            Step::Kernels => "CUDA kernels".to_owned(),
            Step::ShortRun { family, preset } => format!("20 steps of {family}, {preset}"),
        }
    }

    /// The step as one would type it.
    fn by_hand(&self, checkout: &Checkout) -> String {
        match self {
            Step::Cargo { arguments, .. } => shown(&cargo_command(checkout, arguments)),
            Step::Kernels => "cargo xtask kernels".to_owned(),
            Step::ShortRun { family, preset } => {
                format!("cargo xtask train --model {family} --preset {preset} {SHORT_RUN}")
            }
        }
    }
}

fn cargo_command(checkout: &Checkout, arguments: &str) -> Command {
    let mut cargo = checkout.cargo();
    cargo.args(arguments.split_whitespace());
    if arguments.starts_with("doc ") {
        // Read by rustdoc alone; RUSTFLAGS would have everything compiled a second time.
        cargo.env("RUSTDOCFLAGS", "-D warnings");
    }
    cargo
}

fn run_cargo(mut cargo: Command) -> Result<()> {
    let status = cargo.status().map_err(Error::at(Path::new("cargo")))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Child { command: shown(&cargo), status: status.to_string() }),
    }
}

/// Trains a small model for 20 steps on the real corpus, and sees that it learns.
fn short_run(checkout: &Checkout, family: &str, preset: &str) -> Result<()> {
    let corpus = corpus::find(corpus::DEFAULT)?.fetch()?;
    let program = program::build(checkout, With::Tests)?;
    // In the target folder, where it may stay to be looked at.
    let out = program.with_file_name("xtask-test").join(format!("{family}-{preset}"));
    let mut command = program::command(checkout, &program);
    command
        .args(["train", "--model", family, "--preset", preset])
        .args(SHORT_RUN.split_whitespace());
    command.arg("--corpus").arg(&corpus).arg("--out").arg(&out);
    let status = command.status().map_err(Error::at(&program))?;
    if !status.success() {
        return Err(Error::Child { command: shown(&command), status: status.to_string() });
    }
    let path = train::metrics(&out);
    let losses = read_losses(&path)?;
    let (first, last) = check_learning(&losses, &path)?;
    console::line(format_args!("loss {first:.3} at the start, {last:.3} at the end"));
    Ok(())
}

/// The part of a line of metrics that is looked at.
#[derive(Deserialize)]
struct Metrics {
    step: u64,
    /// JSON has no NaN; `null` stands for it.
    loss: Option<f64>,
}

fn read_losses(path: &Path) -> Result<Vec<f64>> {
    let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
    losses(&text).map_err(|reason| Error::Malformed { path: PathBuf::from(path), reason })
}

/// The losses in the order of the steps.
fn losses(text: &str) -> std::result::Result<Vec<f64>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty()).enumerate();
    let parsed = lines.map(|(index, line)| {
        serde_json::from_str::<Metrics>(line)
            .map_err(|error| format!("line {} has no step and loss: {error}", index + 1))
    });
    let mut metrics = parsed.collect::<std::result::Result<Vec<_>, _>>()?;
    metrics.sort_by_key(|metrics| metrics.step);
    Ok(metrics.into_iter().map(|metrics| metrics.loss.unwrap_or(f64::NAN)).collect())
}

/// The mean loss of the first and the last steps, if it fell.
fn check_learning(losses: &[f64], path: &Path) -> Result<(f64, f64)> {
    let wrong = |what: String| Error::NotLearning(format!("{}: {what}", path.display()));
    if losses.len() < 2 * WINDOW {
        return Err(wrong(format!("{} steps have a loss, 20 should", losses.len())));
    }
    if let Some(step) = losses.iter().position(|loss| !loss.is_finite()) {
        return Err(wrong(format!("the loss of step {} is {}", step + 1, losses[step])));
    }
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&losses[..WINDOW]), mean(&losses[losses.len() - WINDOW..]));
    if last < first {
        return Ok((first, last));
    }
    Err(wrong(format!(
        "the loss does not fall: {first:.4} over the first {WINDOW} steps, {last:.4} over the last"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_in_the_order_of_the_steps() {
        let text = "{\"step\":2,\"loss\":1.5,\"lr\":1}\n{\"step\":1,\"loss\":2}\n\n";
        assert_eq!(losses(text).unwrap(), [2.0, 1.5]);
        assert!(losses("{\"step\":1,\"loss\":null}").unwrap()[0].is_nan());
        assert!(losses("{\"loss\":1}").is_err());
        assert!(losses("{\"step\":1,\"loss\":\"low\"}").is_err());
    }

    #[test]
    fn only_a_finite_and_falling_loss_passes() {
        let path = Path::new("metrics.jsonl");
        let falling: Vec<f64> = (0..20).map(|step| 8.0 - 0.1 * f64::from(step)).collect();
        let (first, last) = check_learning(&falling, path).unwrap();
        assert!((first - 7.8).abs() < 1e-9 && (last - 6.3).abs() < 1e-9);

        let rising: Vec<f64> = falling.iter().rev().copied().collect();
        assert!(check_learning(&rising, path).is_err());
        assert!(check_learning(&[8.0; 20], path).is_err());
        assert!(check_learning(&falling[..9], path).is_err());
        let mut broken = falling;
        broken[7] = f64::NAN;
        assert!(check_learning(&broken, path).is_err());
    }

    #[test]
    fn a_fast_test_trains_nothing() {
        assert_eq!(steps(true).len(), CARGO_STEPS.len() + 1);
        assert_eq!(steps(false).len(), CARGO_STEPS.len() + 1 + RUNS.len());
    }
}
