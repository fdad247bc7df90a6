//! What one process measured, read from the files that it left.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::statistics::{Round, TimedStep};

/// A line of `metrics.jsonl`; JSON has no NaN, `null` stands for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MeasuredStep {
    pub(crate) loss: Option<f64>,
    /// Real tokens: all but padding.
    pub(crate) tokens: u64,
    /// Duration of the step.
    pub(crate) step_time_s: f64,
    /// Time since the process began.
    pub(crate) time_s: f64,
}

/// What is used of `summary.json`. Peers leave out what only the program knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunSummary {
    /// Real tokens of all steps.
    pub(crate) tokens: u64,
    pub(crate) steps: u64,
    /// From the start of the process to the end of the first step, compiling included.
    pub(crate) time_to_first_step_s: f64,
    pub(crate) final_loss: Option<f64>,
    pub(crate) peak_memory_bytes: u64,
    #[serde(default)]
    pub(crate) best_product_flops: Option<f64>,
    #[serde(default)]
    pub(crate) flops_per_token: Option<f64>,
    /// Share of the time spent waiting for batches.
    #[serde(default)]
    pub(crate) data_wait: Option<f64>,
    /// A hash of all batches in their order.
    #[serde(default)]
    pub(crate) data_fingerprint: Option<String>,
    #[serde(default)]
    pub(crate) device: String,
    #[serde(default)]
    pub(crate) precision: String,
    #[serde(default)]
    pub(crate) attention: String,
    #[serde(default)]
    pub(crate) threads: Option<u64>,
    /// Versions of what a peer ran on.
    #[serde(default)]
    pub(crate) versions: Option<String>,
    /// Kept with the cell, so that a report made later still knows of it.
    #[serde(default)]
    pub(crate) machine_load: Option<RecordedLoad>,
    /// Of several processes.
    #[serde(default)]
    pub(crate) ranks: Option<RecordedRanks>,
}

/// What several processes cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecordedRanks {
    /// Share of the steps' time in exchanges.
    pub(crate) communication: f64,
    /// The most memory that any of them held.
    pub(crate) largest_peak_memory_bytes: u64,
}

impl RunSummary {
    /// The most memory that a process held.
    pub(crate) fn memory(&self) -> u64 {
        self.ranks.map_or(self.peak_memory_bytes, |ranks| ranks.largest_peak_memory_bytes)
    }

    /// Cores that the run could not have. A rank takes the others for other work, so that of
    /// several only what the host took is known.
    pub(crate) fn missing_cores(&self) -> Option<f64> {
        let RecordedLoad { other_cores, stolen_cores } = self.machine_load?;
        Some(if self.ranks.is_some() { stolen_cores } else { other_cores + stolen_cores })
    }
}

/// Other work of the machine while a process ran.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecordedLoad {
    /// Cores that other processes kept busy.
    pub(crate) other_cores: f64,
    /// Cores that the machine's host took.
    pub(crate) stolen_cores: f64,
}

/// A process that did all its steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) steps: Vec<MeasuredStep>,
    pub(crate) summary: RunSummary,
}

impl Measurement {
    /// Reads a run's folder.
    pub(crate) fn read(run: &Path, steps: u64) -> Result<Self, String> {
        let path = run.join("summary.json");
        let text = read_text(&path)?;
        let summary: RunSummary =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let path = run.join("metrics.jsonl");
        let text = read_text(&path)?;
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let read: Result<Vec<MeasuredStep>, _> = lines.map(serde_json::from_str).collect();
        let read = read.map_err(|error| format!("{}: {error}", path.display()))?;
        if read.len() as u64 != steps {
            return Err(format!("{}: {} steps, expected {steps}", path.display(), read.len()));
        }
        if let Some(step) = read.iter().position(|step| !is_time(step.step_time_s)) {
            return Err(format!("{}: step {} took no time", path.display(), step + 1));
        }
        Ok(Self { steps: read, summary })
    }

    /// The steps after the warm-up.
    pub(crate) fn steady(&self, warmup_steps: u64) -> Round {
        let steady = self.steps.iter().skip(warmup_steps as usize);
        let timed = |step: &MeasuredStep| TimedStep {
            tokens: step.tokens as f64,
            time_s: step.step_time_s,
        };
        Round { steps: steady.map(timed).collect() }
    }

    /// Time of the steps of the warm-up.
    pub(crate) fn warmup_s(&self, warmup_steps: u64) -> f64 {
        self.steps.iter().take(warmup_steps as usize).map(|step| step.step_time_s).sum()
    }

    /// The losses, NaN where a step had none.
    pub(crate) fn losses(&self) -> Vec<f64> {
        self.steps.iter().map(|step| step.loss.unwrap_or(f64::NAN)).collect()
    }
}

fn is_time(seconds: f64) -> bool {
    seconds.is_finite() && seconds > 0.0
}

fn read_text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = r#"{"tokens": 600, "steps": 3, "time_to_first_step_s": 1.5,
        "final_loss": 8.5, "peak_memory_bytes": 1000, "unknown": [1]}"#;

    fn read(metrics: &str) -> Result<Measurement, String> {
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join("summary.json"), SUMMARY).unwrap();
        fs::write(run.path().join("metrics.jsonl"), metrics).unwrap();
        Measurement::read(run.path(), 3)
    }

    #[test]
    fn a_run_s_files_are_read() {
        let line = |loss: &str, time: f64| {
            let times = format!("\"step_time_s\":{time},\"time_s\":9");
            format!("{{\"loss\":{loss},\"tokens\":200,{times}}}\n")
        };
        let metrics = line("9.5", 1.0) + &line("null", 0.5) + &line("8.5", 0.25);
        let measurement = read(&metrics).unwrap();
        let steady = measurement.steady(1).steps;
        let step = |time_s| TimedStep { tokens: 200.0, time_s };
        assert_eq!(steady, [step(0.5), step(0.25)]);
        assert_eq!(measurement.warmup_s(1), 1.0);
        assert!(measurement.losses()[1].is_nan());

        let cut = read(&line("9.5", 1.0)).unwrap_err();
        assert!(cut.contains("1 steps, expected 3"), "{cut}");
        let still = line("9.5", 1.0) + &line("9.5", 0.0) + &line("9.5", 1.0);
        assert!(read(&still).unwrap_err().contains("step 2 took no time"));
        assert!(read("{").is_err());
        assert!(Measurement::read(Path::new("/nowhere"), 3).unwrap_err().contains("summary.json"));
    }
}
