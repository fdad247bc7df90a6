//! `bert4rs train`: from a configuration to a run's folder.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use bert4rs_tensor_core::error::catch_torch_error;

use crate::backends;
use crate::build::{self, Parts, WeightSource};
use crate::cache;
use crate::checkpoint::{Checkpoint, TrainState, compare, store};
use crate::clock::ProcessClock;
use crate::config::Config;
use crate::console::Console;
use crate::description::describe;
use crate::distributed::{Ranks, share_state};
use crate::divergence::DivergenceGuard;
use crate::early_stopping::Patience;
use crate::error::{Error, Result};
use crate::evaluation::Evaluation;
use crate::facts::Facts;
use crate::hook::{Control, Hook};
use crate::machine::Machine;
use crate::metrics::StepRecord;
use crate::names::name_of;
use crate::outlets::Outlets;
use crate::run_folder::{AVERAGE, ClaimedFolder, METRICS, RunFolder, RunOutcome};
use crate::stop::StopSignal;
use crate::summary::Summary;
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
        check_settings(&config.to_toml()?, checkpoint, console)?;
    }
    let mut machine = build::machine_of(config, ranks)?;
    let kept = match &checkpoint {
        Some(_) => backends::read(folder.path())?,
        None => None,
    };
    machine.backends = ranks.share_backends(kept.unwrap_or(machine.backends))?;
    let is_alone = !ranks.group().is_shared();
    // Ranks compare what they begin with, whatever comes after.
    let weights = match checkpoint.is_some() && is_alone {
        true => WeightSource::Restored,
        false => WeightSource::Initial,
    };
    let parts = build::parts_of(config, &machine, (ranks, weights), &mut console.preparation())?;
    console.end();
    let mut lines = describe(config, &machine, &parts);
    lines.extend(ranks.describe(config.optimizer.sharding));
    let export_bytes = export_bytes(&parts, config);
    ranks.check_parts(&parts, config.seed)?;
    let (trainer, facts) = parts.into_trainer_of(ranks)?;
    let mut trainer = with_settings(config, trainer)?;
    let saved = checkpoint.as_ref().map(|checkpoint| read(checkpoint, &folder, &facts.data_hash));
    if let Some((state, records)) = share_state(ranks.group(), saved.transpose()?)? {
        trainer.go_on(&state, &records)?;
    }
    let folder = match &checkpoint {
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
    note_uses(config, &facts, folder.final_path(), console);
    let run = Run { config, ranks, machine, facts, export_bytes };
    let folder = Rc::new(RefCell::new(folder));
    let outcome =
        catch_torch_error("training", || run.train_in(&folder, trainer, (console, clock, stop)));
    console.end();
    let outcome = outcome.map_err(Error::from).flatten();
    let outcome = outcome.map_err(|error| error.while_training(config));
    let Some(folder) = Rc::into_inner(folder).map(RefCell::into_inner) else { return outcome };
    match &outcome {
        Ok(_) => folder.end(RunOutcome::Finished, None)?,
        Err(Error::Stopped { .. }) => folder.end(RunOutcome::Interrupted, None)?,
        // The run's own failure is the one to tell.
        Err(error) => drop(folder.end(RunOutcome::Failed, Some(error.to_string()))),
    }
    outcome
}

/// Writes down what of the cache the run in `folder` uses. A cache that can't be written to is no
/// reason not to train.
fn note_uses(config: &Config, facts: &Facts, folder: &Path, console: &Console) {
    let corpora = config.data.corpus.iter().map(|entry| Path::new(entry.path()));
    let inputs = std::iter::once_with(|| cache::note_inputs(corpora, folder));
    let datasets = facts.datasets.iter().map(|dataset| cache::note_use(dataset, folder));
    for error in inputs.chain(datasets).filter_map(Result::err) {
        console.warning(&error.to_string());
    }
}

/// The trainer with what `config` says of averages, ends and trouble.
pub(crate) fn with_settings(config: &Config, trainer: Trainer) -> Result<Trainer> {
    let train = &config.train;
    let patience = Patience { measurements: train.patience, min_delta: train.min_delta };
    let trainer = trainer.with_patience(patience).with_trouble_policy(build::policy(config));
    if train.ema_decay > 0.0 { trainer.with_average(train.ema_decay) } else { Ok(trainer) }
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
        folder: &Rc<RefCell<RunFolder>>,
        trainer: Trainer,
        (console, clock, stop): (&Console, ProcessClock, &StopSignal),
    ) -> Result<Summary> {
        let Self { config, ranks, machine, facts, export_bytes } = self;
        folder.borrow_mut().reserve(*export_bytes)?;
        let guard = DivergenceGuard::of_run(config);
        let trainer = self.with_outlets(&folder.borrow(), trainer.with_clock(clock), console)?;
        let mut trainer = trainer
            .with_hook(stop.clone())
            .with_hook(TakesPlace(Rc::clone(folder)))
            // The last outlet, so that the others have what it stops at.
            .with_sink(guard.clone());
        trainer.run()?;
        if let Some(signal) = ranks.end_of_steps(&mut trainer, stop)? {
            let (step, folder) = (trainer.steps(), folder.borrow().final_path().to_owned());
            return Err(Error::Stopped { signal, step, folder });
        }
        self.export(folder, &mut trainer)?;
        let evaluation = trainer.evaluate()?;
        let held_out_loss = evaluation.as_ref().and_then(Evaluation::loss);
        let summary = Summary::new(&trainer, machine, facts)?;
        let summary = summary.with_ranks(&trainer, ranks.group())?;
        let summary = Summary {
            held_out_loss,
            held_out: evaluation.map(|evaluation| evaluation.means).unwrap_or_default(),
            held_out_average_loss: trainer.evaluate_average()?.and_then(|found| found.loss()),
            attention: name_of(config.compute.attention),
            ..summary
        };
        let mut folder = folder.borrow_mut();
        folder.write_summary(&summary)?;
        trainer.flush()?;
        let verdict = guard.check_end(summary.steps, summary.final_loss, held_out_loss);
        if verdict.is_ok() {
            folder.replace_old()?;
        }
        console.summary(&summary, folder.path());
        verdict.map(|()| summary)
    }

    /// The trainer with everything that its steps are told to.
    fn with_outlets(
        &self,
        folder: &RunFolder,
        trainer: Trainer,
        console: &Console,
    ) -> Result<Trainer> {
        let config = self.config;
        Outlets {
            folder,
            console,
            peak: &self.machine.peak,
            flops_per_token: self.facts.flops_per_token,
            settings: config.to_toml()?,
            dataset: self.facts.data_hash.clone(),
            checkpoint: &config.checkpoint,
            tensorboard: config.train.tensorboard,
        }
        .attach(trainer)
    }

    /// Writes the model, and its average, to the folder.
    fn export(&self, folder: &Rc<RefCell<RunFolder>>, trainer: &mut Trainer) -> Result<()> {
        let mut folder = folder.borrow_mut();
        let export = |folder: &Path| trainer.task().export(folder, trainer.params());
        folder.export(self.export_bytes, export)?;
        let average = folder.path().join(AVERAGE);
        trainer.export_average(|task, params| {
            std::fs::create_dir_all(&average).map_err(Error::io(&average))?;
            task.export(&average, params)
        })
    }
}

/// A run that replaces another takes its place once it has a whole checkpoint.
pub(crate) struct TakesPlace(pub(crate) Rc<RefCell<RunFolder>>);

impl Hook for TakesPlace {
    fn on_checkpoint(&mut self, _: &Checkpoint, control: &mut Control) -> Result<()> {
        let mut folder = self.0.borrow_mut();
        let before = folder.path().to_owned();
        folder.replace_old()?;
        if folder.path() != before {
            control.moved_to(folder.path().to_owned());
        }
        Ok(())
    }
}

/// Refuses settings that would make it another run, and tells of those that change its bits.
pub(crate) fn check_settings(
    settings: &str,
    checkpoint: &Checkpoint,
    console: &Console,
) -> Result<()> {
    let changes = compare(&checkpoint.settings()?, settings)?;
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
pub(crate) fn read(
    checkpoint: &Checkpoint,
    folder: &ClaimedFolder,
    data_hash: &str,
) -> Result<Saved> {
    let state = checkpoint.read()?;
    if state.progress.dataset != data_hash {
        let reason =
            "was trained on other data, or with another tokenizer or split; give it the same again";
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

/// Bytes of an exported model, and of its average: exact values in FP32, and room for what stands
/// beside them.
pub(crate) fn export_bytes(parts: &Parts, config: &Config) -> u64 {
    const BESIDE: u64 = 4 << 20;
    let models = if config.train.ema_decay > 0.0 { 2 } else { 1 };
    models * (4 * parts.params.count() as u64 + BESIDE)
}
