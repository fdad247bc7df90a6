//! What a run shows: lines anyone can grep, and a bar where a person watches.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::Path;
use std::rc::Rc;

use bert4rs_data::Progress;
use bert4rs_tensor_core::load::MachineLoad;
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};
use crate::hook::{Control, Hook, StepContext};
use crate::metrics::{MetricSink, StepRecord};
use crate::output::print_line;
use crate::summary::Summary;

/// Where a run's messages go. Clones share one bar.
#[derive(Debug, Clone)]
pub struct Console {
    interactive: bool,
    shared: Rc<Shared>,
}

/// What clones share.
#[derive(Debug, Default)]
struct Shared {
    bar: RefCell<Option<ProgressBar>>,
    /// The first line that standard output did not take.
    failure: RefCell<Option<Error>>,
}

impl Console {
    /// Standard output, with a progress bar if that is a terminal.
    pub fn new() -> Self {
        let interactive = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        Self { interactive, shared: Rc::default() }
    }

    /// Prints a line above the bar. That it can't be printed is no reason to stop training:
    /// [`finish`](Self::finish) tells in the end.
    pub fn line(&self, text: &str) {
        let print = || {
            if let Err(error) = print_line(text) {
                self.shared.failure.borrow_mut().get_or_insert(error);
            }
        };
        match &*self.shared.bar.borrow() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Begins a phase of `total` units, such as steps or bytes.
    pub fn begin(&self, label: &str, total: u64) {
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
        *self.shared.bar.borrow_mut() = Some(bar);
    }

    /// Begins a phase before training: a line where nobody watches, a bar where somebody does.
    fn phase(&self, label: &str, total: u64) {
        if !self.interactive {
            self.line(&format!("{label} ..."));
        }
        self.begin(label, total);
    }

    /// What shows how far a corpus' preparation is.
    pub fn preparation(&self) -> impl FnMut(Progress) + use<> {
        let (console, mut phase) = (self.clone(), None);
        move |progress| {
            if phase != Some(progress.phase) {
                phase = Some(progress.phase);
                console.phase(progress.phase.label(), progress.total);
            }
            console.advance_to(progress.done);
        }
    }

    /// Moves the bar to `done` units.
    pub fn advance_to(&self, done: u64) {
        if let Some(bar) = &*self.shared.bar.borrow() {
            bar.set_position(done);
        }
    }

    /// Removes the bar.
    pub fn end(&self) {
        if let Some(bar) = self.shared.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }

    /// Removes the bar.
    ///
    /// # Errors
    /// Lines that standard output did not take.
    pub fn finish(&self) -> Result<()> {
        self.end();
        self.shared.failure.take().map_or(Ok(()), Err)
    }

    /// The closing table.
    pub fn summary(&self, summary: &Summary, folder: &Path) {
        let mut rows = vec![
            ("total time", format!("{:.1} s", summary.total_time_s)),
            ("time to first step", format!("{:.2} s", summary.time_to_first_step_s)),
            ("tokens/s at steady state", format!("{:.0}", summary.tokens_per_s)),
            ("padding", format!("{:.1}% of the positions", 100.0 * padding(summary))),
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
        rows.extend(summary.machine_load.map(|load| ("other work", other_work(&load))));
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

/// What else the machine did, and whether the times are to be trusted.
fn other_work(load: &MachineLoad) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let trust = if load.is_busy(cores) { "; the machine was busy: it could be faster" } else { "" };
    format!(
        "{:.2} of {cores} cores, {:.2} taken by the host; {:.0} switches/s{trust}",
        load.other_cores, load.stolen_cores, load.involuntary_switches_per_s
    )
}

/// The share of positions that held no token.
fn padding(summary: &Summary) -> f64 {
    1.0 - summary.tokens as f64 / summary.positions.max(1) as f64
}

const MIB: f64 = 1024.0 * 1024.0;

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows training's steps: a line for each report, and a bar that moves with each step.
#[derive(Debug, Clone)]
pub struct Terminal {
    console: Console,
    max_steps: u64,
}

impl Terminal {
    /// On `console`, for a run of `max_steps`.
    pub fn new(console: &Console, max_steps: u64) -> Self {
        console.begin("training", max_steps);
        Self { console: console.clone(), max_steps }
    }
}

impl MetricSink for Terminal {
    fn steps(&mut self, records: &[StepRecord]) -> Result<()> {
        let Some(latest) = records.last() else { return Ok(()) };
        let held_out = latest.held_out.iter().flatten();
        let held_out = held_out.map(|(name, mean)| format!(" | Held-out {name}: {mean:.4}"));
        self.console.line(&format!(
            "Step {}/{} | Loss: {:.4} | Tokens/s: {:.0} | Time: {:.1}s{}",
            latest.step,
            self.max_steps,
            latest.loss,
            latest.tokens_per_s,
            latest.time_s,
            held_out.collect::<String>()
        ));
        Ok(())
    }

    fn warning(&mut self, text: &str) {
        self.console.line(text);
    }
}

impl Hook for Terminal {
    fn on_step(&mut self, step: &StepContext<'_>, _: &mut Control) -> Result<()> {
        self.console.advance_to(step.step);
        Ok(())
    }

    fn on_end(&mut self) -> Result<()> {
        self.console.end();
        Ok(())
    }
}
