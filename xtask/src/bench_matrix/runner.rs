//! Runs one cell as a process, unless an earlier command measured the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Args;
use super::cell::{MatrixRow, SizePlan, Workload, arguments, train_arguments};
use super::measurement::Measurement;
use super::peers::{PeerInputs, Python};
use super::process;
use super::processor::Environment;
use super::rounds::Measured;
use super::statistics::tokens_per_s;
use super::store::{ResultStore, key};
use crate::checkout::Checkout;
use crate::error::{Error, Result};
use crate::program;
use crate::{console, corpus};

/// What a run leaves that is of no use here, and large.
const NOT_KEPT: [&str; 2] = ["model.safetensors", "tokenizer.json"];

/// What cells are run with.
pub(crate) struct Runner<'a> {
    checkout: &'a Checkout,
    store: &'a ResultStore,
    program: PathBuf,
    program_hash: String,
    device: &'a str,
    corpus: Option<PathBuf>,
    /// Those fetched so far, by name.
    corpora: BTreeMap<String, PathBuf>,
    python: Option<Python>,
    /// Given to every process.
    environment: Environment,
    /// What the peers of the present size read.
    inputs: Option<PeerInputs>,
    /// Median tokens a second of the baseline in this size, for the lines on the terminal.
    baseline: Option<f64>,
}

/// A process that is to run.
struct CellProcess {
    command: Command,
    key: String,
    folder: PathBuf,
    steps: u64,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(
        checkout: &'a Checkout,
        store: &'a ResultStore,
        program: PathBuf,
        program_hash: String,
        device: &'a str,
        args: &Args,
    ) -> Self {
        Self {
            checkout,
            store,
            program,
            program_hash,
            device,
            corpus: args.corpus.clone(),
            corpora: BTreeMap::new(),
            python: None,
            environment: Environment::new(),
            inputs: None,
            baseline: None,
        }
    }

    /// The same, whose processes get these variables too.
    pub(crate) fn with_environment(self, environment: Environment) -> Self {
        Self { environment, ..self }
    }

    /// Prepares a size: fetches its corpus and makes tokens of it, so that no cell does, and for
    /// peers the baseline's batches, laid out as `peer_batches` says.
    pub(crate) fn begin(&mut self, plan: &SizePlan<'_>, peer_batches: &[String]) -> Result<()> {
        self.inputs = None;
        self.baseline = None;
        console::line(format_args!("{}", plan.size.title));
        let Some(baseline) = plan.rows.first() else { return Ok(()) };
        let cell = self.cell(plan, baseline, "prepare", 1)?;
        if self.store.kept(&cell.folder, &cell.key).is_none() {
            // A failure shows again, and is reported, in the first round.
            let _ = self.run(cell, plan.effort.cell_minutes)?;
        }
        let has_peers = plan.rows.iter().any(|row| matches!(row.workload, Workload::Peer { .. }));
        if has_peers {
            if self.python.is_none() {
                self.python = Some(Python::ensure(self.checkout)?);
            }
            self.prepare_inputs(plan, baseline, peer_batches)?;
        }
        Ok(())
    }

    /// Measures a row in a round.
    pub(crate) fn measure(
        &mut self,
        plan: &SizePlan<'_>,
        row: &MatrixRow,
        round: u32,
    ) -> Result<Measured> {
        let place = format!("round-{}", round + 1);
        let cell = self.cell(plan, row, &place, plan.effort.steps)?;
        let (kept, started) = (self.store.kept(&cell.folder, &cell.key), Instant::now());
        let (outcome, took) = match kept {
            Some(kept) => (Ok(kept), Duration::ZERO),
            None => (self.run(cell, plan.effort.cell_minutes)?, started.elapsed()),
        };
        self.tell(plan, row, round, &outcome, took);
        Ok(Measured { outcome, took })
    }

    /// Trains a row for many steps, which may take so many minutes.
    pub(crate) fn race(
        &mut self,
        plan: &SizePlan<'_>,
        row: &MatrixRow,
        (steps, minutes): (u64, u64),
    ) -> Result<std::result::Result<Measurement, String>> {
        console::line(format_args!("  {} to the end of {steps} steps", row.title));
        let cell = self.cell(plan, row, "race", steps)?;
        match self.store.kept(&cell.folder, &cell.key) {
            Some(kept) => Ok(Ok(kept)),
            None => self.run(cell, minutes),
        }
    }

    /// The line of a cell: what it measured, or why not.
    fn tell(
        &mut self,
        plan: &SizePlan<'_>,
        row: &MatrixRow,
        round: u32,
        outcome: &std::result::Result<Measurement, String>,
        took: Duration,
    ) {
        let place = format!("round {}/{}", round + 1, plan.effort.rounds);
        let title = &row.title;
        match outcome {
            Err(error) => console::line(format_args!("  {place}  {title:<34} FAILED: {error}")),
            Ok(measurement) => {
                let rate = tokens_per_s(&measurement.steady(plan.effort.warmup_steps));
                let ratio = rate / *self.baseline.get_or_insert(rate);
                let loss = measurement.summary.final_loss.unwrap_or(f64::NAN);
                let missing = measurement.summary.missing_cores().unwrap_or(0.0);
                let took = match took.is_zero() {
                    true => "kept".to_owned(),
                    false => console::seconds(took),
                };
                console::line(format_args!(
                    "  {place}  {title:<34} {rate:>8.0} tokens/s {ratio:>6.2}×  loss {loss:.3}  \
                     ({took}, {missing:.1} cores did other work)"
                ));
            }
        }
    }

    fn cell(
        &mut self,
        plan: &SizePlan<'_>,
        row: &MatrixRow,
        place: &str,
        steps: u64,
    ) -> Result<CellProcess> {
        let folder = self.store.round(&plan.size.name, &row.name, place);
        let run = folder.join("run");
        match &row.workload {
            Workload::Ours { preset, set, processes } => {
                let corpus = self.corpus_of(plan)?;
                let of = (plan.size, steps, self.device);
                let mut arguments = arguments(preset, set, of, *processes)?;
                arguments.extend(["--corpus".to_owned(), corpus.display().to_string()]);
                let mut command = program::command(self.checkout, &self.program);
                command.args(&arguments).arg("--out").arg(&run);
                let parts = [self.program_hash.as_str(), self.device];
                let parts = parts.into_iter().chain(self.variables());
                let key = key(parts.chain(arguments.iter().map(String::as_str)));
                command.envs(self.environment.iter().cloned());
                Ok(CellProcess { command, key, folder, steps })
            }
            Workload::Peer { args } => {
                let Some((python, inputs)) = self.python.as_ref().zip(self.inputs.as_ref()) else {
                    return Err(Error::BadFlag {
                        flag: "--peers",
                        reason: "its environment was not made".to_owned(),
                    });
                };
                let (mut command, of_peer) =
                    python.command(self.checkout, inputs, args, steps, self.device, &run)?;
                command.envs(self.environment.iter().cloned());
                let key = match self.environment.is_empty() {
                    true => of_peer,
                    false => key(std::iter::once(of_peer.as_str()).chain(self.variables())),
                };
                Ok(CellProcess { command, key, folder, steps })
            }
        }
    }

    /// What the environment changes of a result's key.
    fn variables(&self) -> impl Iterator<Item = &str> {
        self.environment.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()])
    }

    fn corpus_of(&mut self, plan: &SizePlan<'_>) -> Result<PathBuf> {
        if let Some(path) = &self.corpus {
            return Ok(path.clone());
        }
        let name = &plan.size.corpus;
        if let Some(path) = self.corpora.get(name) {
            return Ok(path.clone());
        }
        let path = corpus::find(name)?.fetch()?;
        self.corpora.insert(name.clone(), path.clone());
        Ok(path)
    }

    /// Runs a process, which may take so many minutes, and keeps what it measured.
    fn run(
        &self,
        cell: CellProcess,
        minutes: u64,
    ) -> Result<std::result::Result<Measurement, String>> {
        let CellProcess { mut command, key, folder, steps } = cell;
        let run = folder.join("run");
        remove(&run)?;
        remove(&folder.join("measurement.json"))?;
        fs::create_dir_all(&folder).map_err(Error::at(&folder))?;
        let limit = Duration::from_secs(60 * minutes.max(1));
        let outcome = process::run(&mut command, &folder.join("log.txt"), limit)
            .and_then(|()| Measurement::read(&run, steps));
        for name in NOT_KEPT {
            remove(&run.join(name))?;
        }
        if let Ok(measurement) = &outcome {
            self.store.keep(&folder, &key, measurement)?;
        }
        Ok(outcome)
    }

    /// The configuration and the batches of the baseline, for the peers to read.
    fn prepare_inputs(
        &mut self,
        plan: &SizePlan<'_>,
        baseline: &MatrixRow,
        peer_batches: &[String],
    ) -> Result<()> {
        let Workload::Ours { preset, set, .. } = &baseline.workload else { return Ok(()) };
        let set = [set.as_slice(), peer_batches].concat();
        let prepared = self.store.round(&plan.size.name, &baseline.name, "prepare");
        let config = prepared.join("run/config.toml");
        let folder = self.store.path(&plan.size.name).join("peer-inputs");
        fs::create_dir_all(&folder).map_err(Error::at(&folder))?;
        let corpus = self.corpus_of(plan)?;
        let steps = plan.effort.steps;
        let batches = folder.join("batches.safetensors");
        let mut arguments = train_arguments(preset, &set, plan.size, steps, "cpu");
        arguments[0] = "batches".to_owned();
        let mut command = program::command(self.checkout, &self.program);
        command.args(&arguments).arg("--corpus").arg(corpus);
        command.arg("--count").arg(steps.to_string()).arg("--out").arg(&batches);
        remove(&batches)?;
        let limit = Duration::from_secs(60 * plan.effort.cell_minutes.max(1));
        let log = folder.join("log.txt");
        process::run(&mut command, &log, limit).map_err(|reason| Error::Child {
            command: crate::checkout::shown(&command),
            status: reason,
        })?;
        self.inputs = Some(PeerInputs::write(&folder, &config, batches)?);
        Ok(())
    }
}

/// Removes a file or folder that may be there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::at(path)(error)),
        _ => Ok(()),
    }
}
