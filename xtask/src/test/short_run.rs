//! The 20 training steps of a small model whose loss must fall.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::checkout::{Checkout, shown};
use crate::error::{Error, Result};
use crate::program::{self, With};
use crate::{console, corpus, train};

/// What must learn: a family and a preset.
#[derive(Clone, Copy)]
pub(crate) struct ShortRun {
    pub(crate) family: &'static str,
    pub(crate) preset: &'static str,
}

pub(crate) const RUNS: [ShortRun; 4] = [
    ShortRun { family: "bert", preset: "baseline" },
    ShortRun { family: "bert", preset: "recommended" },
    ShortRun { family: "gpt", preset: "recommended" },
    ShortRun { family: "t5", preset: "recommended" },
];

/// A model small enough that 20 steps take seconds.
const SIZE: &str = "--max-steps 20 --batch-size 8 --seq-len 64 --hidden-size 64 \
     --num-layers 2 --num-heads 2 --vocab-size 2000 --seed 1 --device cpu --overwrite \
     --set train.log_every=1";

/// Steps that the loss is averaged over, at its start and at its end.
const WINDOW: usize = 5;

impl ShortRun {
    pub(crate) fn name(self) -> String {
        format!("20 steps of {}, {}", self.family, self.preset)
    }

    /// As one would type it.
    pub(crate) fn by_hand(self) -> String {
        let ShortRun { family, preset } = self;
        format!("cargo xtask train --model {family} --preset {preset} {SIZE}")
    }

    /// Trains on the real corpus, and sees that the model learns.
    pub(crate) fn run(self, checkout: &Checkout) -> Result<()> {
        let ShortRun { family, preset } = self;
        let corpus = corpus::find(corpus::DEFAULT)?.fetch()?;
        let program = program::build(checkout, With::Tests)?;
        // In the target folder, where it may stay to be looked at.
        let out = program.with_file_name("xtask-test").join(format!("{family}-{preset}"));
        let mut command = program::command(checkout, &program);
        command
            .args(["train", "--model", family, "--preset", preset])
            .args(SIZE.split_whitespace());
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
}

/// The part of a line of metrics that is looked at.
#[derive(Deserialize)]
struct MetricsLine {
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
        serde_json::from_str::<MetricsLine>(line)
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
}
