//! `bert4rs profile`: a few steps with every operation timed.
//!
//! The warm-up is not recorded: buffers, caches and kernels are being set up there. Timing an
//! operation costs some hundred nanoseconds, so that models of very small operations look slower
//! than they are; `tokens_per_s` of a run without a profile is the truth.

mod table;

pub use table::{Row, kernel_rows, operation_rows, part_rows, table};

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::profile::{self, span};
use bert4rs_tensor_core::safetensors::write_atomic;

use crate::build::{self, WeightSource};
use crate::config::Config;
use crate::console::Console;
use crate::description::describe;
use crate::error::Result;
use crate::run_folder::{ClaimedFolder, RunOutcome};
use crate::trainer::Trainer;

/// What Perfetto (`ui.perfetto.dev`) and `chrome://tracing` open.
pub const TRACE_FILE: &str = "trace.json";
/// The tables, as they were printed.
pub const TABLE_FILE: &str = "profile.txt";

/// Rows that a printed table holds, the most costly; the file has all.
const SHOWN: usize = 25;

/// Trains `warmup_steps` steps and then profiles the rest of the configuration's `max_steps`;
/// leaves [`TRACE_FILE`] and [`TABLE_FILE`] in `folder`.
///
/// # Errors
/// What training's beginning could refuse, and a folder that can't be written.
pub fn run(
    config: &Config,
    warmup_steps: u64,
    folder: ClaimedFolder,
    console: &Console,
) -> Result<()> {
    let machine = build::machine(config)?;
    let parts = build::parts(config, &machine, WeightSource::Initial, &mut console.preparation())?;
    console.end();
    let mut run = folder.begin(config)?;
    describe(config, &machine, &parts).iter().for_each(|line| console.line(line));
    let (mut trainer, _) = parts.into_trainer()?;
    let steps = config.train.max_steps.saturating_sub(warmup_steps);
    for _ in 0..warmup_steps {
        trainer.step()?;
    }
    profile::start(machine.device)?;
    let recorded = record(&mut trainer, steps);
    let events = profile::stop(Some(&run.path().join(TRACE_FILE)))?;
    recorded?;

    let tables = [
        ("part of a step", part_rows(&events, steps)),
        ("operation", operation_rows(&events, steps)),
        ("kernel on the GPU", kernel_rows(&events, steps)),
    ];
    let mut text = String::new();
    for (heading, rows) in tables.iter().filter(|(_, rows)| !rows.is_empty()) {
        let shown = &rows[..rows.len().min(SHOWN)];
        console.line(&format!("\n{}", table(heading, shown)));
        text += &table(heading, rows);
        text.push('\n');
    }
    write_atomic(&run.path().join(TABLE_FILE), text.as_bytes())?;
    run.replace_old()?;
    console.line(&format!("result                    {}", run.path().display()));
    run.end(RunOutcome::Finished, None)
}

fn record(trainer: &mut Trainer, steps: u64) -> Result<()> {
    for _ in 0..steps {
        let _step = span("step");
        let outcome = trainer.step()?;
        // A GPU may still compute what the step asked for.
        let _wait = span("wait for the device");
        outcome.loss.f_double_value(&[]).during("read the loss")?;
    }
    Ok(())
}
