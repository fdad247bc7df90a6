//! `bert4rs train`: flags become overlays of configuration, then the trainer runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bert4rs_data::corpus::keep_stream;
use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::distributed::Launch;
use bert4rs_train::checkpoint::Interval;
use bert4rs_train::clock::ProcessClock;
use bert4rs_train::config::{Config, Overlay, resolve_to_run};
use bert4rs_train::console::Console;
use bert4rs_train::distributed::Ranks;
use bert4rs_train::follower::follow;
use bert4rs_train::presets::note_on_speed;
use bert4rs_train::run;
use bert4rs_train::stop::StopSignal;
use bert4rs_train::{Error, Result, cache, rehearsal};
use toml::{Table, Value};

use super::config::config_overlays;
use super::place::{PlaceFlags, for_one_process};
use super::sweep;
use crate::flags::{TrainCommandFlags, TrainFlags};

pub(crate) fn run(flags: &TrainCommandFlags, clock: ProcessClock) -> Result<ExitCode> {
    let (run_flags, console) = (&flags.run, flags.console.console());
    let launch = Launch::from_variables(|name| std::env::var(name).ok())?;
    if let Some(launch) = launch {
        return train_together(flags, launch, &console, clock);
    }
    if !flags.sweep.is_empty() {
        return sweep::run(flags);
    }
    let mut overlays = overlays(run_flags)?;
    if flags.find_lr {
        overlays.extend(rising_lr(run_flags));
        return find_lr(&config_to_run(&overlays)?, &console);
    }
    let config = config_to_run(&with_tensorboard(overlays, flags))?;
    if flags.dry_run {
        say_notes(run_flags, &config, &console)?;
        rehearsal::dry_run(&config, &console)?;
    } else {
        let name = run_flags.config.presets().join("+");
        let start = place(flags, &name).start(&console)?;
        say_notes(run_flags, &config, &console)?;
        run::train(&config, &Ranks::alone(), start, &console, clock, &listen()?)?;
    }
    console.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Trains as one of several processes.
fn train_together(
    flags: &TrainCommandFlags,
    launch: Launch,
    console: &Console,
    clock: ProcessClock,
) -> Result<ExitCode> {
    let (run_flags, restarts) = (&flags.run, launch.restarts);
    for_one_process(&[
        ("--sweep", !flags.sweep.is_empty()),
        ("--find-lr", flags.find_lr),
        ("--dry-run", flags.dry_run),
    ])?;
    let config = config_to_run(&with_tensorboard(overlays(run_flags)?, flags))?;
    // While it waits for the others there is nothing to save: a signal ends it at once.
    let ranks = Ranks::join(&config, launch)?;
    let stop = listen()?;
    let train = || {
        if !ranks.leads() {
            return follow(&config, &ranks, &stop);
        }
        let name = run_flags.config.presets().join("+");
        let start = place(flags, &name).start_of_several(restarts, console)?;
        say_notes(run_flags, &config, console)?;
        run::train(&config, &ranks, start, console, clock, &stop).map(drop)
    };
    train().inspect_err(|error| ranks.tell_failure(error))?;
    console.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn with_tensorboard(mut overlays: Vec<Overlay>, flags: &TrainCommandFlags) -> Vec<Overlay> {
    if flags.tensorboard {
        overlays.push(Overlay::single("--tensorboard", "train.tensorboard", true));
    }
    overlays
}

/// Where the run is written; without --out, in a folder of that name.
fn place<'a>(flags: &'a TrainCommandFlags, name: &'a str) -> PlaceFlags<'a> {
    PlaceFlags {
        out: flags.run.out.as_deref(),
        overwrite: flags.run.overwrite,
        resume: flags.resume.as_deref(),
        config: flags.run.config.config.as_deref(),
        name,
    }
}

pub(super) fn listen() -> Result<StopSignal> {
    StopSignal::listen()
        .map_err(|source| Error::Io { path: "the handling of signals".into(), source })
}

/// What a person should know of what they chose.
fn say_notes(flags: &TrainFlags, config: &Config, console: &Console) -> Result<()> {
    let presets = flags.config.presets();
    if let Some(note) = note_on_speed(&presets)?.filter(|_| flags.config.config.is_none()) {
        console.line(&format!("preset     {}: {note}", presets.join("+")));
    }
    let device = config.compute.device.parse::<DeviceChoice>()?.resolve()?;
    let (precision, _) = config.compute.precision.resolve(device);
    for why in config.idle_settings(precision) {
        console.line(&format!("no effect  {why}"));
    }
    Ok(())
}

/// A rate that rises over the whole run, over the values that are asked for.
fn rising_lr(flags: &TrainFlags) -> Vec<Overlay> {
    /// The first rate, as a share of the last.
    const FIRST: f64 = 1e-6;
    const HIGHEST: f64 = 1.0;
    const STEPS: i64 = 200;
    let shape = [("shape", Value::from("range_test")), ("min", FIRST.into())];
    let shape: Table = shape.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let none = Table::from_iter([("steps".to_owned(), Value::from(0))]);
    let mut overlays = vec![
        Overlay::single("--find-lr", "schedule.decay", shape),
        Overlay::single("--find-lr", "schedule.warmup", none),
        Overlay::single("--find-lr", "train.max_minutes", 0.0),
    ];
    if flags.lr.is_none() {
        overlays.push(Overlay::single("--find-lr", "optimizer.adamw.lr", HIGHEST));
    }
    if flags.max_steps.is_none() && flags.epochs.is_none() {
        overlays.push(Overlay::single("--find-lr", "train.max_steps", STEPS));
    }
    overlays
}

fn find_lr(config: &Config, console: &Console) -> Result<ExitCode> {
    let found = rehearsal::find_lr(config, console)?;
    console.line(&match found {
        Some(found) => format!(
            "the loss fell fastest at {:.1e} and was lowest at {:.1e}; try --lr {:.1e}",
            found.lr, found.lowest_at, found.lr
        ),
        None => "the loss fell at no rate; give more steps, or look at the data".into(),
    });
    console.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Presets, file, model, `--set`, flags: the later ones win. Standard input is read.
pub(crate) fn overlays(flags: &TrainFlags) -> Result<Vec<Overlay>> {
    let mut overlays = settings(flags)?;
    if !flags.corpus.is_empty() {
        overlays.push(Overlay::single("--corpus", "data.corpus", all_absolute(&flags.corpus)?));
    }
    if !flags.held_out.is_empty() {
        let paths = all_absolute(&flags.held_out)?;
        overlays.push(Overlay::single("--held-out", "data.held_out_corpus", paths));
    }
    Ok(overlays)
}

/// The same without the text, so that nothing is read but settings.
pub(crate) fn settings(flags: &TrainFlags) -> Result<Vec<Overlay>> {
    let mut overlays = config_overlays(&flags.config)?;
    let numbers = [
        ("--seed", "seed", flags.seed),
        ("--max-steps", "train.max_steps", flags.max_steps),
        ("--epochs", "train.epochs", flags.epochs.map(u64::from)),
        ("--batch-size", "data.batch_size", flags.batch_size.map(u64::from)),
        ("--seq-len", "data.seq_len", flags.seq_len.map(u64::from)),
        ("--hidden-size", "model.hidden_size", flags.hidden_size.map(u64::from)),
        ("--num-layers", "model.num_layers", flags.num_layers.map(u64::from)),
        ("--num-heads", "model.num_heads", flags.num_heads.map(u64::from)),
        ("--vocab-size", "model.vocab_size", flags.vocab_size.map(u64::from)),
    ];
    for (flag, key, value) in numbers {
        let Some(value) = value else { continue };
        // The flags take no larger numbers than TOML does.
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        overlays.push(Overlay::single(flag, key, value));
    }
    if flags.max_steps.is_some() {
        overlays.push(Overlay::single("--max-steps", "train.epochs", 0));
    }
    if flags.max_steps.is_some() || flags.epochs.is_some() {
        overlays.push(Overlay::single("--max-steps", "train.max_minutes", 0.0));
    }
    if let Some(minutes) = flags.max_minutes {
        overlays.push(Overlay::single("--max-minutes", "train.epochs", 0));
        overlays.push(Overlay::single("--max-minutes", "train.max_minutes", minutes));
    }
    if let Some(lr) = flags.lr {
        overlays.push(Overlay::single("--lr", "optimizer.adamw.lr", lr));
    }
    if let Some(interval) = &flags.checkpoint_every {
        let interval: Interval = interval.parse()?;
        overlays.push(Overlay::single("--checkpoint-every", "checkpoint.every", interval));
    }
    if let Some(keep) = flags.keep {
        overlays.push(Overlay::single("--keep", "checkpoint.keep", i64::from(keep)));
    }
    if let Some(device) = &flags.device {
        overlays.push(Overlay::single("--device", "compute.device", device.as_str()));
    }
    if let Some(isa) = &flags.cpu_isa {
        overlays.push(Overlay::single("--cpu-isa", "compute.cpu_isa", isa.as_str()));
    }
    if let Some(init) = &flags.init {
        overlays.push(Overlay::single("--init", "model.init", absolute(init)?));
    }
    if let Some(tokenizer) = &flags.tokenizer {
        overlays.push(Overlay::single("--tokenizer", "data.tokenizer", absolute(tokenizer)?));
    }
    if let Some(document) = &flags.document {
        overlays.push(Overlay::single("--document", "data.document", document.clone()));
    }
    if let Some(field) = &flags.text_field {
        overlays.push(Overlay::single("--text-field", "data.text_field", field.clone()));
    }
    Ok(overlays)
}

fn all_absolute(paths: &[PathBuf]) -> Result<Vec<String>> {
    paths.iter().map(|path| of_corpus(path)).collect()
}

/// Where text is found again later: standard input is kept in the cache first.
pub(super) fn of_corpus(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return absolute(&keep_stream(std::io::stdin().lock(), &cache::inputs()?)?);
    }
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(list) => Ok(format!("@{}", absolute(Path::new(list))?)),
        None => absolute(path),
    }
}

/// The path from the root, so that the run's config.toml works from any folder.
pub(super) fn absolute(path: &Path) -> Result<String> {
    let absolute =
        std::path::absolute(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    absolute.into_os_string().into_string().map_err(|_| Error::Config {
        origin: "command line".into(),
        key: path.display().to_string(),
        reason: "is not UTF-8; rename the file or folder".into(),
    })
}

/// What is to be run on this machine, with a corpus.
pub(crate) fn config_to_run(overlays: &[Overlay]) -> Result<Config> {
    let config = resolve_to_run(overlays)?;
    if !config.data.corpus.is_empty() {
        return Ok(config);
    }
    Err(Error::Config {
        origin: "command line".into(),
        key: "data.corpus".into(),
        reason: "names no text; give --corpus PATH, or run `cargo xtask train`, \
                 which fetches one"
            .into(),
    })
}
