//! The presets, compiled in: one small TOML file each.

use crate::error::{Error, Result};
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
            Error::UnknownPreset { name: name.to_owned(), hint }
        })
    }

    /// The comment that opens its file, as one paragraph.
    pub fn summary(&self) -> String {
        let lines = self.toml.lines().map_while(|line| line.strip_prefix('#'));
        let words: Vec<&str> = lines.map(str::trim).take_while(|line| !line.is_empty()).collect();
        words.join(" ")
    }
}
