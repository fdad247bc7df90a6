//! `bert4rs train`: from a configuration to a run's folder.

use bert4rs_tensor_core::error::catch_torch_error;

use crate::build::{self, Parts};
use crate::cache;
use crate::clock::ProcessClock;
use crate::config::Config;
use crate::console::Console;
use crate::description::describe;
use crate::divergence::DivergenceGuard;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::names::name_of;
use crate::run_folder::{ClaimedFolder, Outcome, RunFolder, TENSORBOARD};
use crate::summary::Summary;
use crate::tensorboard::EventFile;
use crate::terminal::Terminal;

/// Trains as `config` says, and leaves everything in `folder`.
///
/// # Errors
/// Bad input, before `folder` holds anything; a run that diverges or that the machine can't
/// carry, after which `folder` holds what was recorded.
pub fn train(
    config: &Config,
    folder: ClaimedFolder,
    console: &Console,
    clock: ProcessClock,
) -> Result<Summary> {
    let machine = build::machine(config)?;
    let parts = build::parts(config, &machine, &mut console.preparation())?;
    console.end();
    let mut folder = folder.begin(config)?;
    describe(config, &machine, &parts).iter().for_each(|line| console.line(line));
    // A cache that can't be written to is no reason not to train.
    if let Err(error) = cache::note_use(&parts.data.facts.dataset, folder.final_path()) {
        console.warning(&error.to_string());
    }
    let outcome = catch_torch_error("training", || {
        train_in(&mut folder, config, &machine, parts, console, clock)
    });
    console.end();
    let outcome = outcome.map_err(Error::from).flatten();
    let outcome = outcome.map_err(|error| error.while_training(config));
    match &outcome {
        Ok(_) => folder.end(Outcome::Finished, None)?,
        // The run's own failure is the one to tell.
        Err(error) => drop(folder.end(Outcome::Failed, Some(error.to_string()))),
    }
    outcome
}

/// Trains in a folder that is there, and leaves everything but the run's end in it.
fn train_in(
    folder: &mut RunFolder,
    config: &Config,
    machine: &Machine,
    parts: Parts,
    console: &Console,
    clock: ProcessClock,
) -> Result<Summary> {
    let export_bytes = export_bytes(&parts);
    folder.reserve(export_bytes)?;
    let light = machine.speed_of_light.best_flops() / parts.data.facts.flops_per_token;
    let terminal = Terminal::new(console, parts.options.max_steps, light);
    let guard = DivergenceGuard::new(config.model.vocab_size);
    let (trainer, facts) = parts.into_trainer()?;
    let mut trainer = trainer
        .with_clock(clock)
        .with_sink(folder.metrics()?)
        .with_sink(terminal.clone())
        .with_hook(terminal);
    if config.train.tensorboard {
        trainer = trainer.with_sink(EventFile::create(&folder.path().join(TENSORBOARD))?);
    }
    // The last outlet, so that the others have what it stops at.
    let mut trainer = trainer.with_sink(guard.clone());
    trainer.run()?;

    folder.export(export_bytes, |folder| trainer.task().export(folder, trainer.params()))?;
    let held_out_loss = trainer.evaluate()?.and_then(|evaluation| evaluation.loss());
    let attention = name_of(config.compute.attention);
    let summary = Summary { held_out_loss, attention, ..Summary::new(&trainer, machine, &facts)? };
    folder.write_summary(&summary)?;
    let verdict = guard.check_end(summary.steps, summary.final_loss, held_out_loss);
    if verdict.is_ok() {
        folder.replace_old()?;
    }
    console.summary(&summary, folder.path());
    verdict.map(|()| summary)
}

/// Bytes of an exported model: exact values in FP32, and room for what stands beside them.
pub(crate) fn export_bytes(parts: &Parts) -> u64 {
    const BESIDE: u64 = 4 << 20;
    4 * parts.params.count() as u64 + BESIDE
}
