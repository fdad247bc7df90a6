//! The flags that say what a run is to be, as overlays of configuration.

use bert4rs_train::config::{Overlay, Positions, parse_assignment, resolve};
use bert4rs_train::{Result, model_zoo, presets};

use crate::flags::ConfigFlags;

/// Presets, file, model, `--set`: the later ones win.
pub(crate) fn config_overlays(flags: &ConfigFlags) -> Result<Vec<Overlay>> {
    let mut overlays = presets::overlays(&flags.presets())?;
    if let Some(path) = &flags.config {
        overlays.push(Overlay::read(path)?);
    }
    let assignments: Result<Vec<Overlay>> =
        flags.set.iter().map(|assignment| parse_assignment(assignment)).collect();
    let assignments = assignments?;
    if let Some(model) = &flags.model {
        let learned = published_positions(model, &overlays, &assignments);
        overlays.push(model_zoo::overlay(model, learned)?);
    }
    overlays.extend(assignments);
    Ok(overlays)
}

/// Whether the run is to have positions as published, which rotary ones replace. What can't be
/// resolved is refused later, with its reason.
fn published_positions(model: &str, overlays: &[Overlay], assignments: &[Overlay]) -> bool {
    let family = model_zoo::overlay(model, false).ok();
    let all: Vec<Overlay> =
        overlays.iter().cloned().chain(family).chain(assignments.to_vec()).collect();
    resolve(&all).is_ok_and(|config| {
        matches!(config.model.positions, Positions::Published {} | Positions::Learned {})
    })
}
