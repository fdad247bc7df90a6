//! What the matrix measures, as data: `benches/matrix/rows.toml` and one file a size.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The file that holds the rows; every other one in its folder is a size.
const ROWS: &str = "rows.toml";

/// All that is defined.
#[derive(Debug)]
pub(crate) struct Definitions {
    pub(crate) rows: RowDefinitions,
    /// In the order of their `place`.
    pub(crate) sizes: Vec<Size>,
}

/// What is compared.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowDefinitions {
    /// The preset that everything is compared with.
    pub(crate) baseline: String,
    /// The preset that switches are taken out of.
    pub(crate) recommended: String,
    #[serde(rename = "preset")]
    pub(crate) presets: Vec<PresetRow>,
    #[serde(rename = "switch", default)]
    pub(crate) switches: Vec<Switch>,
    #[serde(rename = "together", default)]
    pub(crate) together: Vec<Together>,
    #[serde(rename = "peer", default)]
    pub(crate) peers: Vec<Peer>,
    /// Assignments for `--set` that lay the baseline's batches out as the peers get them.
    #[serde(default)]
    pub(crate) peer_batches: Vec<String>,
}

/// A preset of the program.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PresetRow {
    pub(crate) name: String,
    /// Promises the baseline's model: the losses must agree.
    pub(crate) same_model: bool,
    /// Why it may be slower than the baseline.
    #[serde(default)]
    pub(crate) slower: Option<String>,
}

/// One optimization: what turns it on over the baseline, and off under `recommended`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switch {
    pub(crate) name: String,
    /// The preset that is the baseline and this switch, whose row is then the added one.
    #[serde(default)]
    pub(crate) preset: Option<String>,
    /// Assignments for `--set` that add it to the baseline.
    #[serde(default)]
    pub(crate) on: Vec<String>,
    /// Assignments for `--set` that take it out of `recommended`; empty where it is not in it.
    #[serde(default)]
    pub(crate) off: Vec<String>,
    #[serde(default)]
    pub(crate) slower: Option<String>,
}

/// A preset on several processes, where `--processes` asks for them: together they have the batch
/// of one process.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Together {
    pub(crate) name: String,
    pub(crate) preset: String,
    /// Assignments for `--set`.
    #[serde(default)]
    pub(crate) set: Vec<String>,
}

/// Another implementation, run by a script of `benches/peers`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// What a reader calls it.
    pub(crate) title: String,
    /// Arguments of the script.
    pub(crate) args: Vec<String>,
}

/// A model with its data, and how long it is measured.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Size {
    pub(crate) name: String,
    pub(crate) title: String,
    /// Its place among the sizes.
    pub(crate) place: u32,
    /// A corpus of `cargo xtask corpus`.
    pub(crate) corpus: String,
    /// Assignments for `--set`, the same in every cell.
    pub(crate) set: Vec<String>,
    /// More of them on a GPU.
    #[serde(default)]
    pub(crate) set_on_gpu: Vec<String>,
    /// `--quick` measures this size only if it has such a section.
    #[serde(default)]
    pub(crate) quick: Option<Effort>,
    pub(crate) full: Effort,
    /// What is other on a GPU, in both modes.
    pub(crate) on_gpu: GpuEffort,
    /// Time to the baseline's final loss, in the full mode.
    #[serde(default)]
    pub(crate) race: Option<Race>,
}

/// How long to measure, and which result makes a measurement valid.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Effort {
    /// Optimizer steps of a cell, those of the warm-up included.
    pub(crate) steps: u64,
    /// Steps at the start that are timed apart.
    pub(crate) warmup_steps: u64,
    pub(crate) rounds: u32,
    /// No round is begun that would end after this time.
    #[serde(default)]
    pub(crate) limit_minutes: Option<u64>,
    /// A process that takes longer is ended and has failed.
    pub(crate) cell_minutes: u64,
    /// The band in which the loss lies after all steps, in nats.
    pub(crate) loss: [f64; 2],
    /// How far the loss of a row with the baseline's model may lie from the baseline's.
    pub(crate) loss_tolerance: f64,
}

/// What is other on a GPU, whose steps are short, and of which the first are captured.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GpuEffort {
    /// As in [`Effort`].
    pub(crate) steps: u64,
    /// As in [`Effort`]; more than a capture of each shape takes.
    pub(crate) warmup_steps: u64,
    /// As in [`Effort`].
    pub(crate) loss: [f64; 2],
    /// As in [`Effort`].
    pub(crate) loss_tolerance: f64,
}

impl Effort {
    /// The same on a GPU.
    pub(crate) fn on_gpu(&self, gpu: GpuEffort) -> Self {
        let GpuEffort { steps, warmup_steps, loss, loss_tolerance } = gpu;
        Self { steps, warmup_steps, loss, loss_tolerance, ..self.clone() }
    }
}

/// Training to a loss.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Race {
    /// The baseline's steps.
    pub(crate) steps: u64,
    /// How long a row may take.
    pub(crate) minutes: u64,
    /// Presets that run it, beside the baseline.
    pub(crate) presets: Vec<String>,
    /// Steps of presets that reach the loss in fewer, and whose schedule shall end there.
    #[serde(default)]
    pub(crate) fewer_steps: BTreeMap<String, u64>,
}

impl Definitions {
    /// Reads a folder of definitions.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let rows: RowDefinitions = read_toml(&folder.join(ROWS))?;
        let mut sizes = Vec::new();
        for entry in fs::read_dir(folder).map_err(Error::at(folder))? {
            let path = entry.map_err(Error::at(folder))?.path();
            let is_size = path.extension().is_some_and(|ending| ending == "toml");
            if is_size && path.file_name().is_some_and(|name| name != ROWS) {
                let size: Size = read_toml(&path)?;
                size.check().map_err(|reason| Error::BadDefinition { path, reason })?;
                sizes.push(size);
            }
        }
        sizes.sort_by(|a, b| (a.place, &a.name).cmp(&(b.place, &b.name)));
        let path = folder.join(ROWS);
        rows.check(&sizes).map_err(|reason| Error::BadDefinition { path, reason })?;
        Ok(Self { rows, sizes })
    }
}

fn read_toml<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::at(path))?;
    toml::from_str(&text).map_err(|error| Error::BadDefinition {
        path: path.to_path_buf(),
        reason: error.to_string().trim_end().to_owned(),
    })
}

impl RowDefinitions {
    fn check(&self, sizes: &[Size]) -> std::result::Result<(), String> {
        let is_preset = |name: &str| self.presets.iter().any(|preset| preset.name == name);
        let of_switches = self.switches.iter().filter_map(|switch| switch.preset.as_ref());
        let of_races = sizes
            .iter()
            .filter_map(|size| size.race.as_ref())
            .flat_map(|race| race.presets.iter().chain(race.fewer_steps.keys()));
        let of_switches = of_switches.chain(self.together.iter().map(|together| &together.preset));
        let named = [&self.baseline, &self.recommended].into_iter().chain(of_switches);
        for name in named.chain(of_races) {
            if !is_preset(name) {
                return Err(format!("no [[preset]] is called {name:?}"));
            }
        }
        for switch in &self.switches {
            if switch.preset.is_some() != switch.on.is_empty() {
                let name = &switch.name;
                return Err(format!("switch {name:?} needs either `preset` or `on`"));
            }
        }
        Ok(())
    }
}

impl Size {
    fn check(&self) -> std::result::Result<(), String> {
        let on_gpu = self.full.on_gpu(self.on_gpu);
        for (section, effort) in
            [("quick", self.quick.as_ref()), ("full", Some(&self.full)), ("on_gpu", Some(&on_gpu))]
        {
            let Some(effort) = effort else { continue };
            if effort.warmup_steps == 0 || effort.warmup_steps + 2 > effort.steps {
                let steps = effort.steps;
                return Err(format!(
                    "{section}.warmup_steps must be at least 1 and leave 2 of {steps} steps"
                ));
            }
            if effort.rounds == 0 {
                return Err(format!("{section}.rounds must be at least 1"));
            }
            let [low, high] = effort.loss;
            if low.is_nan() || high.is_nan() || low >= high {
                return Err(format!("{section}.loss must be [low, high]"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/matrix")
    }

    #[test]
    fn the_definitions_of_this_checkout_can_be_read() {
        let definitions = Definitions::read(&folder()).unwrap();
        let names: Vec<_> = definitions.sizes.iter().map(|size| size.name.as_str()).collect();
        assert_eq!(names, ["seed", "bert-base", "gpt2", "t5-small"]);
        let quick: Vec<_> = definitions.sizes.iter().filter(|size| size.quick.is_some()).collect();
        assert_eq!(quick.len(), 1, "--quick is the seed's size alone");
        assert!(quick[0].quick.as_ref().unwrap().limit_minutes.unwrap() <= 20);
    }

    /// A step is captured after some that run eagerly, once for each shape; there may be two.
    #[test]
    fn a_gpu_is_measured_long_after_its_steps_are_captured() {
        let source = include_str!("../../../crates/train/src/captured_steps.rs");
        let (_, rest) = source.split_once("const WARM_UP: u32 = ").unwrap();
        let eager: u64 = rest.split_once(';').unwrap().0.parse().unwrap();
        for size in Definitions::read(&folder()).unwrap().sizes {
            for effort in size.quick.iter().chain([&size.full]) {
                let effort = effort.on_gpu(size.on_gpu);
                assert!(effort.warmup_steps > 2 * (eager + 1), "{}", size.name);
                assert!(effort.warmup_steps >= 20 && effort.steps >= 200, "{}", size.name);
                let reports = effort.steps % effort.warmup_steps;
                assert_eq!(reports, 0, "{}: the warm-up ends with a report", size.name);
            }
        }
    }

    #[test]
    fn every_preset_has_a_row_and_every_row_a_preset() {
        let presets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/train/presets");
        let mut files: Vec<String> = fs::read_dir(presets)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into())
            .collect();
        files.sort();
        let definitions = Definitions::read(&folder()).unwrap();
        let mut rows: Vec<_> =
            definitions.rows.presets.iter().map(|preset| preset.name.clone()).collect();
        rows.sort();
        assert_eq!(rows, files);
    }

    #[test]
    fn definitions_that_make_no_sense_are_refused() {
        let rows = "baseline = \"a\"\nrecommended = \"b\"\n";
        let a = "[[preset]]\nname = \"a\"\nsame_model = true\n";
        let b = "[[preset]]\nname = \"b\"\nsame_model = false\n";
        let check = |text: &str| toml::from_str::<RowDefinitions>(text).unwrap().check(&[]);
        assert_eq!(check(&format!("{rows}{a}{b}")), Ok(()));
        assert!(check(&format!("{rows}{a}")).unwrap_err().contains("\"b\""));
        let switch = "[[switch]]\nname = \"s\"\n";
        assert!(check(&format!("{rows}{a}{b}{switch}")).unwrap_err().contains("`on`"));
        assert_eq!(check(&format!("{rows}{a}{b}{switch}on = [\"x=1\"]\n")), Ok(()));

        let folder = tempfile::tempdir().unwrap();
        let wrong = |text: &str| {
            fs::write(folder.path().join(ROWS), text).unwrap();
            Definitions::read(folder.path()).unwrap_err().to_string()
        };
        let unknown = wrong(&format!("{rows}{a}{b}fast = true\n"));
        assert!(unknown.contains("rows.toml") && unknown.contains("fast"), "{unknown}");
    }
}
