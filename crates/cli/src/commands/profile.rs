//! `bert4rs profile`: the flags of `train`, for a few steps that are looked into.

use std::process::ExitCode;

use bert4rs_train::config::Overlay;
use bert4rs_train::console::Console;
use bert4rs_train::run_folder::{ClaimedFolder, default_path};
use bert4rs_train::{Error, Result, profile};

use super::train::{config_to_run, overlays};
use crate::flags::ProfileFlags;

pub(crate) fn run(flags: &ProfileFlags) -> Result<ExitCode> {
    let refuse = |key: &str, reason: &str| Error::Config {
        origin: "command line".into(),
        key: key.into(),
        reason: reason.into(),
    };
    if flags.steps == 0 {
        return Err(refuse("--steps", "0 steps show nothing"));
    }
    if flags.train.max_steps.is_some() {
        return Err(refuse("--max-steps", "a profile has --warmup-steps and --steps instead"));
    }
    let mut overlays = overlays(&flags.train)?;
    let steps = flags.warmup_steps.saturating_add(flags.steps);
    let steps = i64::try_from(steps).unwrap_or(i64::MAX);
    overlays.push(Overlay::single("--steps", "train.max_steps", steps));
    overlays.push(Overlay::single("--steps", "train.max_minutes", 0.0));
    let config = config_to_run(&overlays)?;
    let out = flags.train.out.clone().unwrap_or_else(|| default_path("profile"));
    let folder = ClaimedFolder::claim(&out, flags.train.overwrite)?;
    let console = Console::default();
    profile::run(&config, flags.warmup_steps, folder, &console)?;
    console.finish()?;
    Ok(ExitCode::SUCCESS)
}
