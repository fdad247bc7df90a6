//! The cells of the matrix: each row at each size, and the arguments that make it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::definition::{Definitions, Effort, RowDefinitions, Size};
use crate::error::{Error, Result};

/// What a row says about the presets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RowGroup {
    /// A preset as it is.
    Preset,
    /// The baseline and one switch.
    AddOneIn,
    /// The recommended preset less one switch.
    LeaveOneOut,
    /// A preset on several processes.
    Processes,
    /// Another implementation.
    Peer,
}

impl RowGroup {
    pub(crate) const ALL: [Self; 5] =
        [Self::Preset, Self::AddOneIn, Self::LeaveOneOut, Self::Processes, Self::Peer];

    /// A heading for its rows.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Preset => "Presets",
            Self::AddOneIn => "Baseline and one switch",
            Self::LeaveOneOut => "Recommended less one switch",
            Self::Processes => "Several processes, with the batch of one together",
            Self::Peer => "PyTorch",
        }
    }
}

/// What runs in a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Workload {
    /// The program with a preset and assignments over it.
    Ours { preset: String, set: Vec<String>, processes: u32 },
    /// The peers' script with these arguments.
    Peer { args: Vec<String> },
}

/// A row of the matrix.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MatrixRow {
    /// Names it on the command line, in files and in reports.
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) group: RowGroup,
    pub(crate) workload: Workload,
    /// The loss must agree with the baseline's.
    pub(crate) same_model: bool,
    /// Why it may be slower than the baseline.
    pub(crate) slower: Option<String>,
}

/// A size that is measured, and how.
pub(crate) struct SizePlan<'a> {
    pub(crate) size: &'a Size,
    pub(crate) effort: Effort,
    pub(crate) rows: Vec<MatrixRow>,
}

impl SizePlan<'_> {
    /// The same on a GPU.
    pub(crate) fn for_gpu(self) -> Self {
        Self { effort: self.effort.on_gpu(self.size.on_gpu), ..self }
    }
}

/// What the command line selects.
pub(crate) struct Selection<'a> {
    pub(crate) quick: bool,
    pub(crate) models: &'a [String],
    pub(crate) rows: &'a [String],
    pub(crate) peers: bool,
    pub(crate) rounds: Option<u32>,
    /// Numbers of processes; one needs no rows of its own.
    pub(crate) processes: &'a [u32],
}

/// The selected sizes with their rows, the baseline first.
pub(crate) fn plans<'a>(
    definitions: &'a Definitions,
    selection: &Selection<'_>,
) -> Result<Vec<SizePlan<'a>>> {
    let rows = selected_rows(&definitions.rows, selection)?;
    let sizes = selected_sizes(&definitions.sizes, selection)?;
    for size in &sizes {
        check_processes(size, &rows)?;
    }
    let plan = |size: &'a Size| {
        let effort = if selection.quick { size.quick.as_ref() } else { Some(&size.full) };
        effort.map(|effort| {
            let rounds = selection.rounds.unwrap_or(effort.rounds);
            SizePlan { size, effort: Effort { rounds, ..effort.clone() }, rows: rows.clone() }
        })
    };
    Ok(sizes.into_iter().filter_map(plan).collect())
}

/// Refuses a size whose batch some row's processes can't divide, before anything runs.
fn check_processes(size: &Size, rows: &[MatrixRow]) -> Result<()> {
    for row in rows {
        if let Workload::Ours { processes: processes @ 2.., .. } = row.workload {
            batch_share(size, processes)?;
        }
    }
    Ok(())
}

fn selected_sizes<'a>(sizes: &'a [Size], selection: &Selection<'_>) -> Result<Vec<&'a Size>> {
    let named = |name: &str| sizes.iter().find(|size| size.name == name);
    if let Some(unknown) = selection.models.iter().find(|name| named(name).is_none()) {
        let known: Vec<_> = sizes.iter().map(|size| size.name.as_str()).collect();
        return Err(Error::UnknownName {
            flag: "--models",
            name: unknown.clone(),
            known: known.join(", "),
        });
    }
    let wanted = |size: &&Size| {
        let is_named = selection.models.contains(&size.name);
        is_named || (selection.models.is_empty() && (!selection.quick || size.quick.is_some()))
    };
    let chosen: Vec<_> = sizes.iter().filter(wanted).collect();
    match chosen.iter().find(|size| selection.quick && size.quick.is_none()) {
        Some(size) => Err(Error::UnknownName {
            flag: "--quick --models",
            name: size.name.clone(),
            known: "those with a [quick] section in benches/matrix".to_owned(),
        }),
        None => Ok(chosen),
    }
}

fn selected_rows(rows: &RowDefinitions, selection: &Selection<'_>) -> Result<Vec<MatrixRow>> {
    let mut ours = rows.all();
    let several = selection.processes.iter().copied().filter(|processes| *processes > 1);
    let several: BTreeSet<u32> = several.collect();
    ours.extend(several.into_iter().flat_map(|processes| rows.together_rows(processes)));
    let peers = if selection.peers { rows.peer_rows() } else { Vec::new() };
    let known: Vec<String> = ours.iter().chain(&peers).map(|row| row.name.clone()).collect();
    if let Some(unknown) = selection.rows.iter().find(|name| !known.contains(name)) {
        return Err(Error::UnknownName {
            flag: "--presets",
            name: unknown.clone(),
            known: known.join(", "),
        });
    }
    let chosen = |row: &MatrixRow| {
        row.name == rows.baseline || selection.rows.is_empty() || selection.rows.contains(&row.name)
    };
    let (mut all, others): (Vec<_>, Vec<_>) =
        ours.into_iter().filter(chosen).partition(|row| row.name == rows.baseline);
    all.extend(others);
    let names_peers = peers.iter().any(|row| selection.rows.contains(&row.name));
    all.extend(peers.into_iter().filter(|row| !names_peers || selection.rows.contains(&row.name)));
    Ok(all)
}

impl RowDefinitions {
    /// All rows of the program.
    fn all(&self) -> Vec<MatrixRow> {
        let presets = self.presets.iter().map(|preset| MatrixRow {
            name: preset.name.clone(),
            title: preset.name.clone(),
            group: RowGroup::Preset,
            workload: Workload::Ours { preset: preset.name.clone(), set: Vec::new(), processes: 1 },
            same_model: preset.same_model,
            slower: preset.slower.clone(),
        });
        // A switch that is a preset by itself is added to the baseline by that preset's row.
        let added = self.switches.iter().filter(|switch| switch.preset.is_none()).map(|switch| {
            self.switch_row(switch, RowGroup::AddOneIn, &self.baseline, &switch.on, '+')
        });
        let left_out = self.switches.iter().filter(|switch| !switch.off.is_empty()).map(|switch| {
            self.switch_row(switch, RowGroup::LeaveOneOut, &self.recommended, &switch.off, '-')
        });
        presets.chain(added).chain(left_out).collect()
    }

    fn switch_row(
        &self,
        switch: &super::definition::Switch,
        group: RowGroup,
        preset: &str,
        set: &[String],
        sign: char,
    ) -> MatrixRow {
        MatrixRow {
            name: format!("{preset}{sign}{}", switch.name),
            title: format!("{preset} {} {}", if sign == '+' { "+" } else { "−" }, switch.name),
            group,
            workload: Workload::Ours { preset: preset.to_owned(), set: set.to_vec(), processes: 1 },
            // What is recommended need not be the baseline's model.
            same_model: false,
            slower: switch.slower.clone(),
        }
    }

    fn together_rows(&self, processes: u32) -> Vec<MatrixRow> {
        let row = |together: &super::definition::Together| MatrixRow {
            name: format!("{}@{processes}", together.name),
            title: format!("{} on {processes} processes", together.name),
            group: RowGroup::Processes,
            workload: Workload::Ours {
                preset: together.preset.clone(),
                set: together.set.clone(),
                processes,
            },
            same_model: false,
            slower: Some("an exchange of gradients costs more than cores gain".to_owned()),
        };
        self.together.iter().map(row).collect()
    }

    fn peer_rows(&self) -> Vec<MatrixRow> {
        let row = |peer: &super::definition::Peer| MatrixRow {
            name: peer.name.clone(),
            title: peer.title.clone(),
            group: RowGroup::Peer,
            workload: Workload::Peer { args: peer.args.clone() },
            same_model: false,
            slower: None,
        };
        self.peers.iter().map(row).collect()
    }
}

/// The arguments of `bert4rs` for a row of ours on so many processes, all but corpus and folder.
///
/// # Errors
/// A size whose batch can't be divided among them.
pub(crate) fn arguments(
    preset: &str,
    set: &[String],
    (size, steps, device): (&Size, u64, &str),
    processes: u32,
) -> Result<Vec<String>> {
    if processes == 1 {
        return Ok(train_arguments(preset, set, size, steps, device));
    }
    let share = batch_share(size, processes)?;
    let set = [set, &[format!("{BATCH}{share}")]].concat();
    let launch =
        ["launch".to_owned(), "--processes".to_owned(), processes.to_string(), "--".to_owned()];
    let train = train_arguments(preset, &set, size, steps, device);
    Ok(launch.into_iter().chain(train).collect())
}

/// The assignment of a size's batch.
const BATCH: &str = "data.batch_size=";

/// Sequences of a process, of which so many together have a size's batch.
fn batch_share(size: &Size, processes: u32) -> Result<u32> {
    let batch = |assignment: &String| assignment.strip_prefix(BATCH)?.parse::<u32>().ok();
    match size.set.iter().find_map(batch) {
        Some(batch) if batch % processes == 0 => Ok(batch / processes),
        _ => {
            let reason = format!("{processes} don't divide the batch of {}", size.name);
            Err(Error::BadFlag { flag: "--processes", reason })
        }
    }
}

/// The arguments of `bert4rs train` for a row of ours, all but corpus and folder.
pub(crate) fn train_arguments(
    preset: &str,
    set: &[String],
    size: &Size,
    steps: u64,
    device: &str,
) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["train", "--preset", preset, "--device", device].map(String::from).into();
    let is_on_gpu = device != "cpu";
    let on_gpu: &[String] = if is_on_gpu { &size.set_on_gpu } else { &[] };
    // Losses are read from the device rarely, so that reading them costs no row anything. On a GPU
    // the wait for it belongs to all steps since the last report: the warm-up ends with one.
    let log_every = if is_on_gpu { size.on_gpu.warmup_steps } else { steps };
    let ours = [
        format!("train.max_steps={steps}"),
        format!("train.log_every={log_every}"),
        "train.eval_sequences=0".to_owned(),
    ];
    for assignment in size.set.iter().chain(on_gpu).chain(set).chain(&ours) {
        arguments.extend(["--set".to_owned(), assignment.clone()]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = r#"
        baseline = "plain"
        recommended = "best"
        preset = [
            { name = "best", same_model = false },
            { name = "plain", same_model = true },
            { name = "bf16", same_model = true },
        ]
        switch = [
            { name = "bf16", preset = "bf16", off = ["compute.precision=fp32"] },
            { name = "fused", on = ["a=1"], off = ["a=2"] },
            { name = "odd", on = ["b=1"] },
        ]
        together = [{ name = "best-sharded", preset = "best", set = ["o=1"] }]
        peer = [
            { name = "hf", title = "Hugging Face", args = ["--x"] },
            { name = "tuned", title = "tuned", args = ["--y"] },
        ]
    "#;
    const SIZE: &str = r#"
        name = "small"
        title = "Small"
        place = 1
        corpus = "c"
        set = ["model.vocab_size=10", "data.batch_size=4"]
        set_on_gpu = ["data.batch_size=32"]
        full = { steps = 9, warmup_steps = 2, rounds = 3, cell_minutes = 1,
                 loss = [1.0, 2.0], loss_tolerance = 0.01 }
        on_gpu = { steps = 200, warmup_steps = 20, loss = [0.5, 2.0], loss_tolerance = 0.1 }
    "#;

    fn definitions() -> Definitions {
        let size = toml::from_str(SIZE).unwrap();
        Definitions { rows: toml::from_str(ROWS).unwrap(), sizes: vec![size] }
    }

    fn names(rows: &[&str], peers: bool) -> Result<Vec<String>> {
        let rows: Vec<String> = rows.iter().map(|row| (*row).to_owned()).collect();
        let selection = Selection {
            quick: false,
            models: &[],
            rows: &rows,
            peers,
            rounds: Some(1),
            processes: &[1, 2],
        };
        let definitions = definitions();
        let plans = plans(&definitions, &selection)?;
        assert_eq!((plans.len(), plans[0].effort.rounds), (1, 1));
        Ok(plans[0].rows.iter().map(|row| row.name.clone()).collect())
    }

    #[test]
    fn processes_have_the_batch_of_one_together() {
        let size: Size = toml::from_str(SIZE).unwrap();
        let of = |processes| arguments("best", &["o=1".to_owned()], (&size, 9, "cpu"), processes);
        let two = of(2).unwrap();
        assert_eq!(two[..5], ["launch", "--processes", "2", "--", "train"]);
        let last = |key: &str| two.iter().rfind(|word| word.starts_with(key)).cloned();
        assert_eq!(last("data.batch_size").unwrap(), "data.batch_size=2");
        assert_eq!(of(1).unwrap()[0], "train");
        assert!(of(3).unwrap_err().to_string().contains("--processes"));
    }

    #[test]
    fn numbers_of_processes_are_looked_at_before_anything_runs() {
        let definitions = definitions();
        let planned = |processes: &[u32], rows: &[&str]| {
            let rows: Vec<String> = rows.iter().map(|row| (*row).to_owned()).collect();
            let selection = Selection {
                quick: false,
                models: &[],
                rows: &rows,
                peers: false,
                rounds: None,
                processes,
            };
            plans(&definitions, &selection).map(|plans| {
                let rows = plans[0].rows.iter();
                rows.filter(|row| row.group == RowGroup::Processes).count()
            })
        };
        assert_eq!(planned(&[2, 2, 1], &[]).unwrap(), 1, "a number given twice is one row");
        let told = planned(&[2, 3], &[]).unwrap_err().to_string();
        assert!(told.contains("--processes") && told.contains("small"), "{told}");
        assert_eq!(planned(&[2, 3], &["bf16"]).unwrap(), 0, "rows that are not run divide nothing");
    }

    #[test]
    fn every_switch_is_added_and_left_out_once() {
        let ours = [
            "plain",
            "best",
            "bf16",
            "plain+fused",
            "plain+odd",
            "best-bf16",
            "best-fused",
            "best-sharded@2",
        ];
        assert_eq!(names(&[], false).unwrap(), ours);
        assert_eq!(names(&[], true).unwrap().last().unwrap(), "tuned");
    }

    #[test]
    fn all_peers_run_unless_some_are_named() {
        assert_eq!(names(&["bf16"], true).unwrap(), ["plain", "bf16", "hf", "tuned"]);
        assert_eq!(names(&["bf16", "hf"], true).unwrap(), ["plain", "bf16", "hf"]);
        assert!(names(&["hf"], false).is_err(), "--peers is missing");
    }

    #[test]
    fn the_baseline_is_always_there_and_unknown_names_are_refused() {
        assert_eq!(names(&["best-fused"], false).unwrap(), ["plain", "best-fused"]);
        let error = names(&["fast"], false).unwrap_err().to_string();
        assert!(error.contains("--presets") && error.contains("best-bf16"), "{error}");
    }

    #[test]
    fn what_a_row_sets_comes_after_what_its_size_sets() {
        let definitions = definitions();
        let set = ["model.vocab_size=20".to_owned()];
        let on = |device| train_arguments("p", &set, &definitions.sizes[0], 7, device).join(" ");
        let cpu = on("cpu");
        let size = cpu.find("vocab_size=10").unwrap();
        assert!(size < cpu.find("vocab_size=20").unwrap(), "{cpu}");
        assert!(cpu.contains("--set train.max_steps=7") && !cpu.contains("batch_size=32"), "{cpu}");
        assert!(cpu.contains("train.log_every=7"), "{cpu}");
        let gpu = on("cuda:0");
        assert!(gpu.contains("data.batch_size=32") && gpu.contains("log_every=20"), "{gpu}");
    }

    #[test]
    fn only_sizes_with_a_quick_section_are_quick() {
        let definitions = definitions();
        let models = ["small".to_owned()];
        let quick = |models| {
            let selection = Selection {
                quick: true,
                models,
                rows: &[],
                peers: false,
                rounds: None,
                processes: &[],
            };
            plans(&definitions, &selection).map(|plans| plans.len())
        };
        assert_eq!(quick(&[]).unwrap(), 0);
        assert!(quick(&models).is_err());
    }
}
