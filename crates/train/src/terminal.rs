//! Training's steps as a person sees them: one line that changes in a terminal, lines that anyone
//! can grep elsewhere.

use std::time::{Duration, Instant};

use crate::console::Console;
use crate::error::Result;
use crate::hook::{Control, Hook, StepContext};
use crate::measured_peak::MeasuredPeak;
use crate::metrics::{MetricSink, StepRecord};

/// Weight of the earlier steps in the smoothed loss: it looks back about fifty steps.
const SMOOTHING: f64 = 0.98;

/// Shows training's steps.
#[derive(Debug, Clone)]
pub struct Terminal {
    console: Console,
    max_steps: u64,
    /// Since when, and how much passed before, where the run's length is a time.
    time: Option<(Instant, Duration)>,
    /// The machine's best matrix products, and the FLOPs of a token, where a share is shown.
    light: Option<(MeasuredPeak, f64)>,
    loss: SmoothedLoss,
}

/// A mean in which each step counts less than the next.
#[derive(Debug, Clone, Default)]
struct SmoothedLoss {
    sum: f64,
    weight: f64,
}

impl SmoothedLoss {
    fn push(&mut self, loss: f64) {
        if loss.is_finite() {
            self.sum = SMOOTHING * self.sum + (1.0 - SMOOTHING) * loss;
            self.weight = SMOOTHING * self.weight + (1.0 - SMOOTHING);
        }
    }

    fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

impl Terminal {
    /// On `console`, for a run of `max_steps`.
    pub fn new(console: &Console, max_steps: u64) -> Self {
        console.begin("training", max_steps);
        let loss = SmoothedLoss::default();
        Self { console: console.clone(), max_steps, time: None, light: None, loss }
    }

    /// The same, which shows the share of what `peak` allows for a model of so many FLOPs a token.
    pub fn with_light(mut self, peak: MeasuredPeak, flops_per_token: f64) -> Self {
        self.light = Some((peak, flops_per_token));
        self
    }

    /// How much of the machine's best matrix products so many tokens a second are.
    fn share_of_light(&self, tokens_per_s: f64) -> Result<String> {
        let Some((peak, flops_per_token)) = &self.light else { return Ok(String::new()) };
        let share = tokens_per_s * flops_per_token / peak.get()?.best_flops();
        Ok(format!(", {:.0}% of light", 100.0 * share))
    }

    /// The same for a run whose length is a time, of which so much has passed.
    pub fn with_time(mut self, whole: Duration, passed: Duration) -> Self {
        self.console.begin("training", whole.as_secs());
        self.time = Some((Instant::now(), passed));
        self
    }

    /// The line of a report.
    fn line(&self, latest: &StepRecord) -> String {
        let held_out = latest.held_out.iter().flatten();
        let held_out = held_out.map(|(name, mean)| format!(" | Held-out {name}: {mean:.4}"));
        format!(
            "Step {}{} | Loss: {:.4} | Tokens/s: {:.0} | Time: {:.1}s{}",
            latest.step,
            self.time.map_or_else(|| format!("/{}", self.max_steps), |_| String::new()),
            latest.loss,
            latest.tokens_per_s,
            latest.time_s,
            held_out.collect::<String>()
        )
    }

    /// What stands beside the bar, of the steps since the last report.
    fn message(&self, records: &[StepRecord]) -> Result<String> {
        let sum = |value: fn(&StepRecord) -> f64| records.iter().map(value).sum::<f64>();
        let time_s = sum(|record| record.step_time_s).max(1e-9);
        let tokens_per_s = sum(|record| record.tokens as f64) / time_s;
        let loss = records.last().map_or(f64::NAN, |record| record.loss);
        let bytes =
            records.last().map_or(0, |record| record.device_bytes.unwrap_or(record.resident_bytes));
        Ok(format!(
            "loss {loss:.4} (smoothed {:.4}) | {tokens_per_s:.0} tokens/s{} | {} MiB | data {:.1}%",
            self.loss.mean(),
            self.share_of_light(tokens_per_s)?,
            bytes >> 20,
            100.0 * sum(|record| record.data_wait_s) / time_s,
        ))
    }
}

impl MetricSink for Terminal {
    fn steps(&mut self, records: &[StepRecord]) -> Result<()> {
        records.iter().for_each(|record| self.loss.push(record.loss));
        let Some(latest) = records.last() else { return Ok(()) };
        if self.console.shows_object("step", latest) {
            return Ok(());
        }
        if self.console.is_interactive() {
            self.console.set_message(self.message(records)?);
        }
        // Held-out losses are few, and stay to be read.
        if !self.console.is_interactive() || latest.held_out.is_some() {
            self.console.line(&self.line(latest));
        }
        Ok(())
    }

    fn warning(&mut self, text: &str) {
        self.console.warning(text);
    }

    fn note(&mut self, text: &str) {
        self.console.line(text);
    }
}

impl Hook for Terminal {
    fn on_step(&mut self, step: &StepContext<'_>, _: &mut Control) -> Result<()> {
        self.console.advance_to(match self.time {
            Some((began, before)) => (before + began.elapsed()).as_secs(),
            None => step.step,
        });
        Ok(())
    }

    fn on_end(&mut self) -> Result<()> {
        self.console.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::Device;
    use serde_json::json;

    use super::*;
    use crate::console::ConsoleOptions;

    fn record(step: u64, loss: f64) -> StepRecord {
        serde_json::from_value(json!({
            "step": step, "loss": loss, "tokens_per_s": 50.0, "tokens": 100, "positions": 128,
            "lr": 0.1, "grad_norm": 1.0, "step_time_s": 2.0, "time_s": 4.0, "data_wait_s": 0.1,
            "resident_bytes": 3 << 20,
        }))
        .unwrap()
    }

    #[test]
    fn the_bar_tells_all_that_matters() {
        let console = Console::new(ConsoleOptions { quiet: true, ..ConsoleOptions::default() });
        let peak = MeasuredPeak::new(Device::Cpu).unwrap();
        let flops_per_token = peak.get().unwrap().best_flops() / 200.0;
        let mut terminal = Terminal::new(&console, 10).with_light(peak, flops_per_token);
        let records = [record(1, 8.0), record(2, 6.0)];
        terminal.steps(&records).unwrap();
        let message = terminal.message(&records).unwrap();
        // Of two steps, the second counts a little more.
        let expected =
            "loss 6.0000 (smoothed 6.9899) | 50 tokens/s, 25% of light | 3 MiB | data 5.0%";
        assert_eq!(message, expected);
        assert_eq!(
            terminal.line(&records[1]),
            "Step 2/10 | Loss: 6.0000 | Tokens/s: 50 | Time: 4.0s"
        );
    }
}
