//! What a run shows: lines anyone can grep, and a bar where a person watches.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::rc::Rc;

use bert4rs_data::Progress;
use bert4rs_tensor_core::load::MachineLoad;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use crate::error::{Error, Result, in_units};
use crate::output::print_line;
use crate::summary::{RanksSummary, Summary};

/// The form of what is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object a line: `message`, `step` or `summary`.
    Json,
}

/// What is shown, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// Nothing but warnings and errors.
    pub quiet: bool,
    /// The form.
    pub format: LogFormat,
}

/// Where a run's messages go. Clones share one bar.
#[derive(Debug, Clone)]
pub struct Console {
    options: ConsoleOptions,
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
    /// Standard output, with a progress bar if that is a terminal and text is to be shown.
    pub fn new(options: ConsoleOptions) -> Self {
        let watched = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let interactive = watched && !options.quiet && options.format == LogFormat::Text;
        Self { options, interactive, shared: Rc::default() }
    }

    /// Whether a person watches a bar, rather than lines that go by.
    pub fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// Prints a line above the bar. That it can't be printed is no reason to stop training:
    /// [`finish`](Self::finish) tells in the end.
    pub fn line(&self, text: &str) {
        match self.options.format {
            LogFormat::Text => self.print(text),
            LogFormat::Json => self.object("message", &text),
        }
    }

    /// The same for what a person should know even if they asked for quiet.
    pub fn warning(&self, text: &str) {
        if self.options.quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        } else {
            self.line(text);
        }
    }

    /// Prints `{ NAME: value }`, where objects are shown; whether they are.
    pub fn shows_object(&self, name: &str, value: &impl Serialize) -> bool {
        if self.options.format == LogFormat::Json {
            self.object(name, value);
        }
        self.options.format == LogFormat::Json
    }

    fn object(&self, name: &str, value: &impl Serialize) {
        self.print(&json!({ name: value }).to_string());
    }

    fn print(&self, text: &str) {
        if self.options.quiet {
            return;
        }
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
        let template = "{bar:16} {pos}/{len} {msg} | {eta} left";
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

    /// Replaces the text beside the bar.
    pub fn set_message(&self, text: String) {
        if let Some(bar) = &*self.shared.bar.borrow() {
            bar.set_message(text);
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
        if self.shows_object("summary", summary) {
            return;
        }
        let mut rows = vec![
            ("total time", format!("{:.1} s", summary.total_time_s)),
            ("time to first step", format!("{:.2} s", summary.time_to_first_step_s)),
            ("tokens/s at steady state", format!("{:.0}", summary.tokens_per_s)),
            ("padding", format!("{:.1}% of the positions", 100.0 * padding(summary))),
            ("final loss", format!("{:.4} nats", summary.final_loss)),
        ];
        if let Some(loss) = summary.held_out_loss {
            rows.push(("held-out loss", format!("{loss:.4} nats")));
            rows.extend(held_out_rows(summary));
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
        if let Some(ranks) = &summary.ranks {
            rows.extend(rows_of_ranks(ranks));
        }
        let (pause_s, pause) = (summary.checkpoint_pause_s, 100.0 * summary.checkpoint_pause);
        rows.push((
            "checkpoints' pauses",
            format!("{pause_s:.2} s, {pause:.2}% of the steps' time"),
        ));
        if summary.skipped_steps > 0 {
            rows.push(("skipped steps", summary.skipped_steps.to_string()));
        }
        if summary.rollbacks > 0 {
            rows.push(("went back", format!("{} times", summary.rollbacks)));
        }
        rows.extend(summary.ended_early.as_ref().map(|why| ("ended early", why.clone())));
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

/// What several processes cost.
fn rows_of_ranks(ranks: &RanksSummary) -> [(&'static str, String); 2] {
    let communication = format!(
        "{:.1}% of the time, {} a step from rank 0",
        100.0 * ranks.communication,
        in_units(ranks.bytes_per_step as u64)
    );
    let processes = format!(
        "{}; rank {} the slowest, {:.1} ms behind the mean; {} at most in one",
        ranks.processes,
        ranks.slowest_rank,
        1e3 * ranks.lag_s,
        in_units(ranks.largest_peak_memory_bytes)
    );
    [("processes", processes), ("communication", communication)]
}

/// What was measured on held-out text beside its loss.
fn held_out_rows(summary: &Summary) -> Vec<(&'static str, String)> {
    let named = |name, label, show: fn(f64) -> String| {
        summary.held_out.get(name).map(|value| (label, show(*value)))
    };
    let average = summary.held_out_average_loss;
    [
        named("perplexity", "held-out perplexity", |value| format!("{value:.2}")),
        named("accuracy", "held-out accuracy", |value| format!("{:.2}%", 100.0 * value)),
        average.map(|loss| ("held-out loss of average", format!("{loss:.4} nats"))),
    ]
    .into_iter()
    .flatten()
    .collect()
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
        Self::new(ConsoleOptions::default())
    }
}
