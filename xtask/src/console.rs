//! What a person sees: lines, and the progress of long work.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Writes one line to standard output; a reader that went away is no reason to stop the work.
pub(crate) fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes one line about the work itself to standard error, so that output stays data.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Bytes in the unit a person reads.
pub(crate) fn size(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let mib = bytes as f64 / MIB;
    if mib < 10.0 { format!("{mib:.1} MiB") } else { format!("{mib:.0} MiB") }
}

/// A duration as a person says it.
pub(crate) fn seconds(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02.0} s", elapsed.as_secs() / 60, seconds % 60.0)
    }
}

/// The progress of one piece of work measured in bytes: a bar on a terminal, four lines in a pipe.
pub(crate) struct ByteProgress {
    label: String,
    total: u64,
    started: Instant,
    bar: Option<ProgressBar>,
    quarters_told: u64,
}

impl ByteProgress {
    /// Starts a progress display, and says what is about to happen.
    pub(crate) fn start(label: String, total: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(label.clone());
            bar
        });
        if bar.is_none() {
            note(format_args!("{label} ({})", size(total)));
        }
        ByteProgress { label, total, started: Instant::now(), bar, quarters_told: 0 }
    }

    /// Tells how many bytes are done.
    pub(crate) fn set(&mut self, done: u64) {
        let quarters = (done * 4).checked_div(self.total).unwrap_or(0).min(3);
        match &self.bar {
            Some(bar) => bar.set_position(done.min(self.total)),
            None if quarters > self.quarters_told => {
                note(format_args!("{} {} %", self.label, quarters * 25));
            }
            None => {}
        }
        self.quarters_told = self.quarters_told.max(quarters);
    }

    /// Replaces the bar by the line that stays.
    pub(crate) fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let ByteProgress { label, total, started, .. } = self;
        note(format_args!("{label} done: {} in {}", size(total), seconds(started.elapsed())));
    }
}
