//! What a run shows: lines anyone can grep, and a bar where a person watches.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};
use crate::metrics::{StepRecord, Summary};
use crate::output::print_line;

/// Where a run's messages go.
#[derive(Debug)]
pub struct Console {
    bar: Option<ProgressBar>,
    interactive: bool,
    /// The first line that standard output did not take.
    failure: RefCell<Option<Error>>,
}

impl Console {
    /// Standard output, with a progress bar if that is a terminal.
    pub fn new() -> Self {
        let interactive = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        Self { bar: None, interactive, failure: RefCell::default() }
    }

    /// Prints a line above the bar. That it can't be printed is no reason to stop training:
    /// [`finish`](Self::finish) tells in the end.
    pub fn line(&self, text: &str) {
        let print = || {
            if let Err(error) = print_line(text) {
                self.failure.borrow_mut().get_or_insert(error);
            }
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Begins a phase of `total` units, such as steps or bytes.
    pub fn begin(&mut self, label: &str, total: u64) {
        self.end();
        if !self.interactive {
            return;
        }
        let bar = ProgressBar::new(total);
        let template = "{msg} {wide_bar} {pos}/{len} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(label.to_owned());
        self.bar = Some(bar);
    }

    /// Begins a phase before training: a line where nobody watches, a bar where somebody does.
    pub fn phase(&mut self, label: &str, total: u64) {
        if !self.interactive {
            self.line(&format!("{label} ..."));
        }
        self.begin(label, total);
    }

    /// Moves the bar to `done` units.
    pub fn advance_to(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// Removes the bar.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Removes the bar.
    ///
    /// # Errors
    /// Lines that standard output did not take.
    pub fn finish(&mut self) -> Result<()> {
        self.end();
        self.failure.take().map_or(Ok(()), Err)
    }

    /// The line of a step.
    pub fn step(&self, record: &StepRecord, max_steps: u64, elapsed: Duration) {
        self.line(&format!(
            "Step {}/{max_steps} | Loss: {:.4} | Tokens/s: {:.0} | Time: {:.1}s",
            record.step,
            record.loss,
            record.tokens_per_s,
            elapsed.as_secs_f64()
        ));
    }

    /// The closing table.
    pub fn summary(&self, summary: &Summary, folder: &Path) {
        let mut rows = vec![
            ("total time", format!("{:.1} s", summary.total_time_s)),
            ("time to first step", format!("{:.2} s", summary.time_to_first_step_s)),
            ("tokens/s at steady state", format!("{:.0}", summary.tokens_per_s)),
            ("padding", format!("{:.1}% of the places", 100.0 * padding(summary))),
            ("final loss", format!("{:.4} nats", summary.final_loss)),
        ];
        if let Some(loss) = summary.held_out_loss {
            rows.push(("held-out loss", format!("{loss:.4} nats")));
            rows.push(("unigram entropy", format!("{:.4} nats", summary.unigram_entropy)));
        }
        rows.push(("attention", format!("{} ({})", summary.attention, summary.attention_backend)));
        rows.push(("peak memory", format!("{:.0} MiB", summary.peak_memory_bytes as f64 / MIB)));
        if let (Some(used), Some(taken)) =
            (summary.peak_device_bytes, summary.peak_device_reserved_bytes)
        {
            let [used, taken] = [used, taken].map(|bytes| bytes as f64 / MIB);
            rows.push(("peak memory of the GPU", format!("{used:.0} MiB, {taken:.0} MiB taken")));
        }
        rows.push((
            "speed of light",
            format!(
                "{:.1}% of {:.0} GFLOP/s, this machine's best matrix product",
                100.0 * summary.speed_of_light,
                summary.best_product_flops / 1e9
            ),
        ));
        rows.push(("waiting for data", format!("{:.1}% of the time", 100.0 * summary.data_wait)));
        if summary.skipped_steps > 0 {
            rows.push(("skipped steps", summary.skipped_steps.to_string()));
        }
        if let Some(overflows) = summary.fp8_overflows {
            rows.push(("FP8 overflow", format!("{overflows} values")));
        }
        rows.push(("result", folder.display().to_string()));
        self.line("");
        for (label, value) in rows {
            self.line(&format!("{label:<26}{value}"));
        }
    }
}

/// The share of places that held no token.
fn padding(summary: &Summary) -> f64 {
    1.0 - summary.tokens as f64 / summary.slots.max(1) as f64
}

const MIB: f64 = 1024.0 * 1024.0;

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}
