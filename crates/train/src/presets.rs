//! The presets, compiled in: one small TOML file each.

use crate::config::{Overlay, leaves, resolve};
use crate::error::{Error, Result, shorten};
use crate::nearest::nearest;

/// A named set of configuration values.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// What `--preset` takes.
    pub name: &'static str,
    /// The file: comments first, then only what differs from `baseline`.
    pub toml: &'static str,
}

/// Every preset; `baseline`, which holds all keys with their defaults, is the first.
pub const PRESETS: [Preset; 15] = [
    Preset { name: "baseline", toml: include_str!("../presets/baseline.toml") },
    Preset { name: "bf16", toml: include_str!("../presets/bf16.toml") },
    Preset { name: "fp8", toml: include_str!("../presets/fp8.toml") },
    Preset { name: "fused", toml: include_str!("../presets/fused.toml") },
    Preset { name: "flash", toml: include_str!("../presets/flash.toml") },
    Preset { name: "qk-norm", toml: include_str!("../presets/qk-norm.toml") },
    Preset { name: "yarn", toml: include_str!("../presets/yarn.toml") },
    Preset { name: "sparse-logits", toml: include_str!("../presets/sparse-logits.toml") },
    Preset { name: "packed", toml: include_str!("../presets/packed.toml") },
    Preset { name: "async-data", toml: include_str!("../presets/async-data.toml") },
    Preset { name: "muon", toml: include_str!("../presets/muon.toml") },
    Preset { name: "normuon", toml: include_str!("../presets/normuon.toml") },
    Preset { name: "low-memory", toml: include_str!("../presets/low-memory.toml") },
    Preset { name: "recommended", toml: include_str!("../presets/recommended.toml") },
    Preset { name: "fastest", toml: include_str!("../presets/fastest.toml") },
];

/// The preset that holds every key.
pub const BASELINE: Preset = PRESETS[0];

/// The preset that is for speed.
pub const RECOMMENDED: &str = "recommended";

impl Preset {
    /// The preset of this name.
    ///
    /// # Errors
    /// An unknown name; the error tells the nearest, or all.
    pub fn named(name: &str) -> Result<Self> {
        PRESETS.into_iter().find(|preset| preset.name == name).ok_or_else(|| {
            let names = PRESETS.map(|preset| preset.name);
            let hint = match nearest(name, names) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("there are: {}", names.join(", ")),
            };
            Error::UnknownPreset { name: shorten(name), hint }
        })
    }

    /// Its values.
    ///
    /// # Errors
    /// None, as each preset's file is TOML.
    pub fn overlay(&self) -> Result<Overlay> {
        Overlay::parse(format!("preset {}", self.name), self.toml)
    }

    /// The comment that opens its file, as one paragraph.
    pub fn summary(&self) -> String {
        let lines = self.toml.lines().map_while(|line| line.strip_prefix('#'));
        let words: Vec<&str> = lines.map(str::trim).take_while(|line| !line.is_empty()).collect();
        words.join(" ")
    }
}

/// The values of several presets, to be laid over each other in this order.
///
/// # Errors
/// An unknown name.
pub fn overlays(names: &[&str]) -> Result<Vec<Overlay>> {
    names.iter().map(|name| Preset::named(name)?.overlay()).collect()
}

/// Says, of presets that leave most of what [`RECOMMENDED`] speeds up as the baseline has it, that
/// they do, and what to add.
///
/// # Errors
/// An unknown name.
pub fn note_on_speed(names: &[&str]) -> Result<Option<String>> {
    if names == [BASELINE.name] {
        return Ok(None);
    }
    let baseline = resolve(&[])?.to_table()?;
    let composed = resolve(&overlays(names)?)?.to_table()?;
    let recommended = Preset::named(RECOMMENDED)?.overlay()?;
    let (baseline, composed) = (leaves(&baseline), leaves(&composed));
    let speeds_up = leaves(&recommended.values);
    let is_plain = |key: &String| {
        let value = |all: &[(String, &toml::Value)]| {
            all.iter().find(|(known, _)| known == key).map(|(_, value)| (*value).clone())
        };
        value(&baseline) == value(&composed)
    };
    let plain = speeds_up.iter().filter(|(key, _)| is_plain(key)).count();
    Ok((2 * plain > speeds_up.len()).then(|| {
        let name = names.join("+");
        format!("all else as in baseline; for speed, --preset {RECOMMENDED}+{name}")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_compose_in_their_order() {
        let of = |names: &[&str]| resolve(&overlays(names).unwrap()).unwrap();
        let both = of(&["recommended", "normuon"]);
        assert!(both.optimizer.muon.is_some());
        assert_eq!(both.compute, of(&["recommended"]).compute, "as fast as recommended");
        assert_eq!(of(&["normuon", "baseline"]).compute, of(&[]).compute, "the later one wins");
    }

    #[test]
    fn a_preset_that_leaves_the_rest_plain_says_so() {
        let note = |names: &[&str]| note_on_speed(names).unwrap();
        for name in ["muon", "bf16", "packed", "yarn", "flash"] {
            let said = note(&[name]).unwrap();
            assert!(said.ends_with(&format!("--preset recommended+{name}")), "{said}");
        }
        for names in [&["baseline"][..], &["recommended"], &["fastest"], &["low-memory"]] {
            assert_eq!(note(names), None, "{names:?}");
        }
        assert_eq!(note(&["recommended", "muon"]), None);
    }
}
