//! `bert4rs train`: from a configuration to a run's folder.

use std::path::Path;

use bert4rs_tensor_core::error::catch_torch_error;

use crate::backends;
use crate::build::{self, Parts};
use crate::cache;
use crate::checkpoint::{Checkpoint, Checkpointer, Retention, TrainState, compare, store};
use crate::clock::ProcessClock;
use crate::config::Config;
use crate::console::Console;
use crate::description::describe;
use crate::distributed::Ranks;
use crate::divergence::DivergenceGuard;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::machine::Machine;
use crate::metrics::StepRecord;
use crate::names::name_of;
use crate::run_folder::{ClaimedFolder, METRICS, RunFolder, RunOutcome, TENSORBOARD};
use crate::stop::StopSignal;
use crate::summary::Summary;
use crate::tensorboard::EventFile;
use crate::terminal::Terminal;
use crate::trainer::Trainer;

/// Where a run begins.
#[derive(Debug)]
pub struct Start {
    /// Its folder.
    pub folder: ClaimedFolder,
    /// The checkpoint in that folder that it goes on from; absent for a run that begins.
    pub checkpoint: Option<Checkpoint>,
}

/// A run's state when it was saved, with the records of all steps until then.
type Saved = (TrainState, Vec<StepRecord>);

/// Trains as `config` says, as the process of `ranks` that leads, and leaves everything in the
/// folder. The others [`follow`](crate::follower::follow).
///
/// # Errors
/// Bad input, before the folder is touched; a run that diverges or that the machine can't carry,
/// after which the folder holds what was recorded; [`Error::Stopped`].
pub fn train(
    config: &Config,
    ranks: &Ranks,
    start: Start,
    console: &Console,
    clock: ProcessClock,
    stop: &StopSignal,
) -> Result<Summary> {
    let Start { folder, checkpoint } = start;
    if let Some(checkpoint) = &checkpoint {
        check_settings(config, checkpoint, console)?;
    }
    let mut machine = build::machine_of(config, ranks)?;
    let kept = match &checkpoint {
        Some(_) => backends::read(folder.path())?,
        None => None,
    };
    machine.backends = ranks.share_backends(kept.unwrap_or(machine.backends))?;
    let parts = build::parts_of(config, &machine, ranks, &mut console.preparation())?;
    console.end();
    let mut lines = describe(config, &machine, &parts);
    lines.extend(ranks.describe(config));
    let export_bytes = export_bytes(&parts);
    ranks.check_parts(&parts, config.seed)?;
    let (mut trainer, facts) = parts.into_trainer_of(ranks)?;
    let saved = checkpoint.as_ref().map(|checkpoint| read(checkpoint, &folder, &facts));
    if let Some((state, records)) = ranks.share_state(saved.transpose()?)? {
        trainer.go_on(&state, &records)?;
    }
    let mut folder = match &checkpoint {
        None => folder.begin(config)?,
        Some(checkpoint) => {
            store::forget_after(folder.path(), checkpoint.step)?;
            folder.go_on(config, checkpoint.step)?
        }
    };
    if !machine.backends.is_empty() {
        backends::write(folder.path(), &machine.backends)?;
    }
    lines.iter().for_each(|line| console.line(line));
    // A cache that can't be written to is no reason not to train.
    if let Err(error) = cache::note_use(&facts.dataset, folder.final_path()) {
        console.warning(&error.to_string());
    }
    let run = Run { config, ranks, machine, facts, export_bytes };
    let outcome = catch_torch_error("training", || {
        run.train_in(&mut folder, trainer, (console, clock, stop))
    });
    console.end();
    let outcome = outcome.map_err(Error::from).flatten();
    let outcome = outcome.map_err(|error| error.while_training(config));
    match &outcome {
        Ok(_) => folder.end(RunOutcome::Finished, None)?,
        Err(Error::Stopped { .. }) => folder.end(RunOutcome::Interrupted, None)?,
        // The run's own failure is the one to tell.
        Err(error) => drop(folder.end(RunOutcome::Failed, Some(error.to_string()))),
    }
    outcome
}

/// What a run knows while it trains.
struct Run<'a> {
    config: &'a Config,
    ranks: &'a Ranks,
    machine: Machine,
    facts: Facts,
    export_bytes: u64,
}

impl Run<'_> {
    /// Trains in a folder that is there, and leaves everything but the run's end in it.
    fn train_in(
        &self,
        folder: &mut RunFolder,
        trainer: Trainer,
        (console, clock, stop): (&Console, ProcessClock, &StopSignal),
    ) -> Result<Summary> {
        let Self { config, ranks, machine, facts, export_bytes } = self;
        folder.reserve(*export_bytes)?;
        let light = machine.speed_of_light.best_flops() / facts.flops_per_token;
        let max_steps = trainer.max_steps();
        let terminal = Terminal::new(console, max_steps, light);
        let guard = DivergenceGuard::new(config.model.vocab_size);
        let retention = Retention { keep: config.checkpoint.keep as usize };
        let (settings, interval) = (config.to_toml()?, config.checkpoint.every);
        let dataset = facts.data_hash.clone();
        let checkpointer = Checkpointer::new(folder.path(), settings, dataset, interval, retention);
        let mut trainer = trainer
            .with_clock(clock)
            .with_checkpoints(checkpointer)
            .with_sink(folder.metrics()?)
            .with_sink(terminal.clone())
            .with_hook(terminal)
            .with_hook(stop.clone());
        if config.train.tensorboard {
            trainer = trainer.with_sink(EventFile::create(&folder.path().join(TENSORBOARD))?);
        }
        // The last outlet, so that the others have what it stops at.
        let mut trainer = trainer.with_sink(guard.clone());
        trainer.run()?;
        if let Some(signal) = ranks.end_of_steps(&mut trainer, stop)? {
            let (step, folder) = (trainer.steps(), folder.path().to_owned());
            return Err(Error::Stopped { signal, step, folder });
        }

        let export = |folder: &Path| trainer.task().export(folder, trainer.params());
        folder.export(*export_bytes, export)?;
        let held_out_loss = trainer.evaluate()?.and_then(|evaluation| evaluation.loss());
        let attention = name_of(config.compute.attention);
        let summary = Summary::new(&trainer, machine, facts)?;
        let summary = summary.with_ranks(&trainer, ranks.group())?;
        let summary = Summary { held_out_loss, attention, ..summary };
        folder.write_summary(&summary)?;
        let verdict = guard.check_end(summary.steps, summary.final_loss, held_out_loss);
        if verdict.is_ok() {
            folder.replace_old()?;
        }
        console.summary(&summary, folder.path());
        verdict.map(|()| summary)
    }
}

/// Refuses settings that would make it another run, and tells of those that change its bits.
fn check_settings(config: &Config, checkpoint: &Checkpoint, console: &Console) -> Result<()> {
    let changes = compare(&checkpoint.settings()?, &config.to_toml()?)?;
    if !changes.refused.is_empty() {
        let reason = format!(
            "can't go on with other settings: {}; leave them as they were, or begin a new run",
            changes.refused.join(", ")
        );
        return Err(Error::RunFolder { path: checkpoint.path.clone(), reason });
    }
    for note in &changes.notes {
        console.line(&format!("resume     {note}: losses may differ from those of one run"));
    }
    Ok(())
}

/// The state in a checkpoint, with the records of all steps until then.
fn read(checkpoint: &Checkpoint, folder: &ClaimedFolder, facts: &Facts) -> Result<Saved> {
    let state = checkpoint.read()?;
    if state.progress.dataset != facts.data_hash {
        let reason = "was trained on another corpus, tokenizer or split; give it the same again";
        return Err(Error::RunFolder { path: checkpoint.path.clone(), reason: reason.into() });
    }
    let path = folder.path().join(METRICS);
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let records = text.lines().filter_map(|line| serde_json::from_str::<StepRecord>(line).ok());
    let records: Vec<_> = records.take_while(|record| record.step <= checkpoint.step).collect();
    if records.len() as u64 != checkpoint.step {
        let reason = format!(
            "holds {} of the {} steps before the checkpoint",
            records.len(),
            checkpoint.step
        );
        return Err(Error::RunFolder { path, reason });
    }
    Ok((state, records))
}

/// Bytes of an exported model: exact values in FP32, and room for what stands beside them.
pub(crate) fn export_bytes(parts: &Parts) -> u64 {
    const BESIDE: u64 = 4 << 20;
    4 * parts.params.count() as u64 + BESIDE
}
