//! `bert4rs runs`: what lies in a folder of runs.

use std::process::ExitCode;

use bert4rs_train::output::print_line;
use bert4rs_train::report::{RecordedRun, find_runs};
use bert4rs_train::{Result, in_units};
use serde_json::json;

use crate::flags::RunsFlags;

pub(crate) fn run(flags: &RunsFlags) -> Result<ExitCode> {
    let found = find_runs(&flags.folder)?;
    if found.is_empty() && !flags.json {
        print_line(&format!("no runs in {}", flags.folder.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let runs: Vec<RecordedRun> =
        found.iter().map(|path| RecordedRun::read(path)).collect::<Result<_>>()?;
    if flags.json {
        runs.iter().try_for_each(|run| print_line(&object(run).to_string()))?;
        return Ok(ExitCode::SUCCESS);
    }
    print_table(&runs)?;
    Ok(ExitCode::SUCCESS)
}

/// A line a run.
pub(super) fn print_table(runs: &[RecordedRun]) -> Result<()> {
    let width = runs.iter().map(|run| run.name().chars().count()).max().unwrap_or(0).max(3);
    print_line(&row(width, ["run", "status", "step", "loss", "held-out", "tokens/s", "size"]))?;
    runs.iter().try_for_each(|run| {
        let cells = cells(run);
        print_line(&row(width, cells.each_ref().map(String::as_str)))
    })
}

fn row(width: usize, [name, status, step, loss, held_out, speed, size]: [&str; 7]) -> String {
    format!(
        "{name:<width$}  {status:<11}  {step:>8}  {loss:>8}  {held_out:>8}  {speed:>9}  {size:>9}"
    )
}

fn cells(run: &RecordedRun) -> [String; 7] {
    let shown = |number: Option<f64>, decimals: usize| {
        number.map_or("–".into(), |number| format!("{number:.decimals$}"))
    };
    let last = run.steps.last();
    [
        run.name(),
        run.status_word().to_owned(),
        last.map_or(0, |step| step.step).to_string(),
        shown(loss(run), 4),
        shown(run.number("held_out_loss"), 4),
        shown(run.number("tokens_per_s").or(last.map(|step| step.tokens_per_s)), 0),
        in_units(run.bytes),
    ]
}

/// The run's own final loss, or its latest.
fn loss(run: &RecordedRun) -> Option<f64> {
    run.number("final_loss").or(run.steps.last().map(|step| step.loss))
}

fn object(run: &RecordedRun) -> serde_json::Value {
    json!({
        "path": run.path,
        "status": run.status_word(),
        "began_at_s": run.state.began_at_s,
        "reason": run.state.ended.as_ref().and_then(|ended| ended.reason.as_ref()),
        "steps": run.steps.last().map_or(0, |step| step.step),
        "loss": loss(run),
        "held_out_loss": run.number("held_out_loss"),
        "tokens_per_s": run.number("tokens_per_s"),
        "bytes": run.bytes,
    })
}
