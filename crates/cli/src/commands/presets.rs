//! `bert4rs presets` and `bert4rs presets show NAME`.

use std::process::ExitCode;

use bert4rs_train::Result;
use bert4rs_train::config::{Layer, resolve};
use bert4rs_train::presets::{PRESETS, Preset};

use super::say;
use crate::flags::{PresetsAction, PresetsFlags};

pub(crate) fn run(flags: &PresetsFlags) -> Result<ExitCode> {
    match &flags.action {
        None => PRESETS.iter().for_each(|preset| {
            say(&format!("{:<14}{}", preset.name, preset.summary()));
        }),
        Some(PresetsAction::Show { name }) => {
            let preset = Preset::named(name)?;
            let layer = Layer::parse(format!("preset {name}"), preset.toml)?;
            say(&format!("# {}\n", preset.summary()));
            say(resolve(&[layer])?.to_toml()?.trim_end());
        }
    }
    Ok(ExitCode::SUCCESS)
}
