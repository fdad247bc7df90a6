//! `bert4rs train`: flags become overlays of configuration, then the trainer runs.

use std::path::Path;
use std::process::ExitCode;

use bert4rs_train::clock::ProcessClock;
use bert4rs_train::config::{Config, Overlay, resolve_to_run};
use bert4rs_train::console::Console;
use bert4rs_train::presets::note_on_speed;
use bert4rs_train::run_folder::{ClaimedFolder, default_path};
use bert4rs_train::{Error, Result, run};

use super::config::config_overlays;
use crate::flags::TrainFlags;

pub(crate) fn run(flags: &TrainFlags, clock: ProcessClock) -> Result<ExitCode> {
    let config = config_to_run(&overlays(flags)?)?;
    let presets = flags.config.presets();
    let out = flags.out.clone().unwrap_or_else(|| default_path(&presets.join("+")));
    let folder = ClaimedFolder::claim(&out, flags.overwrite)?;
    let console = Console::new();
    if let Some(note) = note_on_speed(&presets)?.filter(|_| flags.config.config.is_none()) {
        console.line(&format!("preset     {}: {note}", presets.join("+")));
    }
    run::train(&config, folder, &console, clock)?;
    console.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Presets, file, model, `--set`, flags: the later ones win.
pub(crate) fn overlays(flags: &TrainFlags) -> Result<Vec<Overlay>> {
    let mut overlays = config_overlays(&flags.config)?;
    let numbers = [
        ("--seed", "seed", flags.seed),
        ("--max-steps", "train.max_steps", flags.max_steps),
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
    if let Some(device) = &flags.device {
        overlays.push(Overlay::single("--device", "compute.device", device.as_str()));
    }
    if let Some(tokenizer) = &flags.tokenizer {
        overlays.push(Overlay::single("--tokenizer", "data.tokenizer", absolute(tokenizer)?));
    }
    if !flags.corpus.is_empty() {
        let paths: Result<Vec<String>> = flags.corpus.iter().map(|path| absolute(path)).collect();
        overlays.push(Overlay::single("--corpus", "data.corpus", paths?));
    }
    Ok(overlays)
}

/// The path from the root, so that the run's config.toml works from any folder.
fn absolute(path: &Path) -> Result<String> {
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
