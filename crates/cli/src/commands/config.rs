//! The flags that say what a run is to be, as layers of configuration.

use bert4rs_train::config::{Layer, Positions, parse_assignment, resolve};
use bert4rs_train::{Result, presets, published, trainer};

use crate::flags::ConfigFlags;

/// Presets, file, model, `--set`: the later ones win.
pub(crate) fn config_layers(flags: &ConfigFlags) -> Result<Vec<Layer>> {
    let mut layers = presets::layers(&flags.presets())?;
    if let Some(path) = &flags.config {
        layers.push(trainer::read_config_file(path)?);
    }
    let assignments: Result<Vec<Layer>> =
        flags.set.iter().map(|assignment| parse_assignment(assignment)).collect();
    let assignments = assignments?;
    if let Some(model) = &flags.model {
        let learned = published_positions(model, &layers, &assignments);
        layers.push(published::layer(model, learned)?);
    }
    layers.extend(assignments);
    Ok(layers)
}

/// Whether the run is to have positions as published, which rotary ones replace. What can't be
/// resolved is refused later, with its reason.
fn published_positions(model: &str, layers: &[Layer], assignments: &[Layer]) -> bool {
    let family = published::layer(model, false).ok();
    let all: Vec<Layer> =
        layers.iter().cloned().chain(family).chain(assignments.to_vec()).collect();
    resolve(&all).is_ok_and(|config| {
        matches!(config.model.positions, Positions::Published {} | Positions::Learned {})
    })
}
