//! `cargo xtask bench-matrix`: what every preset and switch is worth on this machine.
//!
//! | module | holds |
//! | --- | --- |
//! | [`definition`] | `benches/matrix/*.toml`: rows and sizes |
//! | [`cell`] | each row at each size, and its arguments |
//! | [`rounds`] | which row runs when |
//! | [`runner`] | runs one cell as a process |
//! | [`processor`] | a lesser class of processor to keep to |
//! | [`peers`] | PyTorch's environment and inputs |
//! | [`measurement`], [`store`] | what a process measured, read and kept |
//! | [`statistics`] | medians, intervals |
//! | [`machine`] | what it all ran on |
//! | [`report`] | the numbers, and how they are shown |

mod cell;
mod definition;
mod machine;
mod measurement;
mod peers;
mod process;
mod processor;
mod report;
mod rounds;
mod runner;
mod statistics;
mod store;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cell::{Selection, SizePlan};
use definition::Definitions;
use machine::MeasuredMachine;
use report::{Report, SizeReport};
use runner::Runner;
use store::ResultStore;

use crate::cache::replace_file;
use crate::checkout::Checkout;
use crate::console;
use crate::error::{Error, Result};
use crate::program::{self, With};
use crate::setup;

/// Measure what every preset and switch is worth on this machine
///
/// Runs each cell in a process of its own, in rounds over all cells, and writes report.html,
/// report.md and report.json. An interrupted matrix goes on where it was.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The seed's size alone, few steps: at most 20 minutes on 2 cores
    #[arg(long)]
    quick: bool,
    /// Sizes, by their names in benches/matrix; all if none
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    models: Vec<String>,
    /// Rows, such as bf16, baseline+fused-adamw or recommended-bf16; all if none. The baseline
    /// always runs
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    presets: Vec<String>,
    /// auto, cpu or cuda:N; auto is a GPU where there is one
    #[arg(long, default_value = "auto")]
    device: String,
    /// Keep programs and peers to a lesser class of processor: avx2, avx2-vnni, avx512,
    /// avx512-vnni, avx512-bf16 or amx
    #[arg(long, value_name = "CLASS")]
    cpu_isa: Option<String>,
    /// Also run Hugging Face's and a hand-tuned PyTorch model (needs python3; fetches 2 GB once)
    #[arg(long)]
    peers: bool,
    /// Numbers of processes: for each above 1, presets on as many, which have the batch of one
    /// together
    #[arg(long, value_delimiter = ',', value_name = "N")]
    processes: Vec<u32>,
    /// Rounds over all cells
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Folder of results; default: target/bench-matrix/quick or …/full
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A bert4rs program that is built already, as in a bundle; else cargo builds it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Text to train on instead of each size's corpus
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// Also put the tables between the markers of this file
    #[arg(long, value_name = "FILE")]
    splice: Option<PathBuf>,
}

/// Runs the matrix; the exit code is 1 if a cell failed or its result is not valid.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<ExitCode> {
    // All that can be wrong with the input is looked at before anything takes time.
    let definitions = Definitions::read(&checkout.root().join("benches/matrix"))?;
    let selection = Selection {
        quick: args.quick,
        models: &args.models,
        rows: &args.presets,
        peers: args.peers,
        rounds: args.rounds,
        processes: &args.processes,
    };
    check_processes(&args.processes, &args.device)?;
    if args.rounds == Some(0) {
        return Err(Error::BadFlag { flag: "--rounds", reason: "0 measures nothing".to_owned() });
    }
    let plans = cell::plans(&definitions, &selection)?;
    if let Some(path) = &args.splice {
        let text = fs::read_to_string(path).map_err(Error::at(path))?;
        report::markdown::check_markers(path, &text)?;
    }
    let store = ResultStore::open(&out_folder(checkout, args))?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => {
            setup::ensure(checkout)?;
            program::build(checkout, With::Nothing)?
        }
    };
    let program_hash = store::hash_of(&program)?;
    let machine = MeasuredMachine::of(checkout.root(), &program_hash);
    warn_if_busy(&machine);
    let device = device(&args.device, &machine)?;
    check_processes(&args.processes, &device)?;
    let plans: Vec<_> = match device.as_str() {
        "cpu" => plans,
        _ => plans.into_iter().map(SizePlan::for_gpu).collect(),
    };
    let environment = match &args.cpu_isa {
        Some(name) => processor::environment(checkout, &program, name)?,
        None => Vec::new(),
    };
    let mut runner = Runner::new(checkout, &store, program, program_hash, &device, args)
        .with_environment(environment);
    let with = (args, machine.cores);
    let sizes = plans.iter().map(|plan| measure(plan, &definitions, &mut runner, with));
    let sizes = sizes.collect::<Result<Vec<_>>>()?;
    let report = Report { command: command(args), made: made(), device, machine, sizes };
    write(&store, &report)?;
    if let Some(path) = &args.splice {
        let text = fs::read_to_string(path).map_err(Error::at(path))?;
        replace_file(path, report::markdown::spliced(path, &text, &report)?.as_bytes())?;
        console::line(format_args!("spliced  {}", path.display()));
    }
    Ok(if report.is_valid() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All rounds of a size, then its race.
fn measure(
    plan: &SizePlan<'_>,
    definitions: &Definitions,
    runner: &mut Runner<'_>,
    (args, cores): (&Args, usize),
) -> Result<SizeReport> {
    runner.begin(plan, &definitions.rows.peer_batches)?;
    let limit = plan.effort.limit_minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let results = rounds::run_rounds(plan.rows.len(), plan.effort.rounds, limit, |row, round| {
        runner.measure(plan, &plan.rows[row], round)
    })?;
    let mut racers = Vec::new();
    if let (Some(race), false) = (&plan.size.race, args.quick) {
        let baseline = &definitions.rows.baseline;
        for row in
            plan.rows.iter().filter(|row| row.name == *baseline || race.presets.contains(&row.name))
        {
            let steps = race.fewer_steps.get(&row.name).copied().unwrap_or(race.steps);
            racers.push((row.name.clone(), steps, runner.race(plan, row, (steps, race.minutes))?));
        }
    }
    Ok(SizeReport::of(plan, &results, racers, cores))
}

fn out_folder(checkout: &Checkout, args: &Args) -> PathBuf {
    let mode = if args.quick { "quick" } else { "full" };
    let default = || checkout.root().join("target/bench-matrix").join(mode);
    args.out.clone().unwrap_or_else(default)
}

/// The device by the name that the program takes. The same for all cells, so never `auto`.
fn device(asked: &str, machine: &MeasuredMachine) -> Result<String> {
    let is_index = |index: &str| index.parse::<u8>().is_ok();
    match asked {
        "auto" if machine.gpus.is_empty() => Ok("cpu".to_owned()),
        "auto" | "cuda" => Ok("cuda:0".to_owned()),
        "cpu" => Ok("cpu".to_owned()),
        other if other.strip_prefix("cuda:").is_some_and(is_index) => Ok(other.to_owned()),
        other => {
            let reason = format!("{other:?} is none of auto, cpu, cuda, cuda:N");
            Err(Error::BadFlag { flag: "--device", reason })
        }
    }
}

/// Refuses numbers of processes that can't train on the device, as asked for or as found.
fn check_processes(processes: &[u32], device: &str) -> Result<()> {
    let refused =
        |reason: &str| Err(Error::BadFlag { flag: "--processes", reason: reason.to_owned() });
    match processes.iter().max() {
        _ if processes.contains(&0) => refused("0 train nothing"),
        Some(2..) if device.starts_with("cuda") => {
            refused("several train on CPUs alone: add --device cpu, or leave this out")
        }
        _ => Ok(()),
    }
}

fn warn_if_busy(machine: &MeasuredMachine) {
    if machine.was_busy_at_start() {
        console::note(format_args!(
            "the machine is busy (load {:.1} on {} cores): times will not be worth much",
            machine.load_at_start, machine.cores
        ));
    }
}

/// The command as one would type it to make the same report.
fn command(args: &Args) -> String {
    let mut words = vec!["cargo xtask bench-matrix".to_owned()];
    let mut flag = |given: bool, text: String| {
        if given {
            words.push(text);
        }
    };
    flag(args.quick, "--quick".to_owned());
    flag(!args.models.is_empty(), format!("--models {}", args.models.join(",")));
    flag(!args.presets.is_empty(), format!("--presets {}", args.presets.join(",")));
    flag(args.device != "auto", format!("--device {}", args.device));
    let isa = args.cpu_isa.as_deref();
    flag(isa.is_some(), format!("--cpu-isa {}", isa.unwrap_or_default()));
    flag(args.peers, "--peers".to_owned());
    let processes: Vec<String> = args.processes.iter().map(u32::to_string).collect();
    flag(!processes.is_empty(), format!("--processes {}", processes.join(",")));
    flag(args.rounds.is_some(), format!("--rounds {}", args.rounds.unwrap_or_default()));
    let path =
        |path: &Option<PathBuf>| path.as_deref().unwrap_or(Path::new("")).display().to_string();
    flag(args.corpus.is_some(), format!("--corpus {}", path(&args.corpus)));
    flag(args.splice.is_some(), format!("--splice {}", path(&args.splice)));
    words.join(" ")
}

/// The time of day, as the report's readers count it.
fn made() -> String {
    machine::output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default()
}

fn write(store: &ResultStore, report: &Report) -> Result<()> {
    for size in &report.sizes {
        console::line(format_args!("\n{}", report::table::terminal(size)));
    }
    let json = store.path("report.json");
    let text = serde_json::to_string_pretty(report)
        .map_err(|error| Error::Malformed { path: json.clone(), reason: error.to_string() })?;
    replace_file(&json, text.as_bytes())?;
    replace_file(&store.path("report.md"), report::markdown::report(report).as_bytes())?;
    let html = store.path("report.html");
    replace_file(&html, report::html::page(report).as_bytes())?;
    console::line(format_args!("\nreport   {} (and .md, .json)", html.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_or_refused() {
        let mut machine = MeasuredMachine::of(Path::new("."), "");
        machine.gpus.clear();
        assert_eq!(device("auto", &machine).unwrap(), "cpu");
        machine.gpus.push("a GPU".to_owned());
        assert_eq!(device("auto", &machine).unwrap(), "cuda:0");
        assert_eq!(device("cuda:3", &machine).unwrap(), "cuda:3");
        assert!(device("tpu", &machine).unwrap_err().to_string().contains("--device"));
        assert!(device("cuda:x", &machine).is_err());
    }

    #[test]
    fn several_processes_are_refused_on_a_gpu() {
        assert!(check_processes(&[1, 2], "cpu").is_ok() && check_processes(&[], "cuda:0").is_ok());
        assert!(check_processes(&[1], "cuda:0").is_ok());
        let told = check_processes(&[1, 2], "cuda:0").unwrap_err().to_string();
        assert!(told.contains("--processes") && told.contains("--device cpu"), "{told}");
        assert!(check_processes(&[0], "cpu").is_err());
    }
}
