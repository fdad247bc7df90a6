//! The loop.

use bert4rs_tensor_core::error::catch_torch_error;

use crate::clock::ProcessClock;
use crate::config::Config;
use crate::console::Console;
use crate::error::{Error, Result};
use crate::metrics::{Meter, StepRecord, Summary};
use crate::run_folder::{ClaimedFolder, Outcome, RunFolder};
use crate::session::Session;

/// Trains as `config` says, and leaves everything in `folder`.
///
/// # Errors
/// Bad input, before `folder` holds anything; a run that diverges or that the machine can't
/// carry, after which `folder` holds what was recorded.
pub fn train(
    config: &Config,
    folder: ClaimedFolder,
    console: &mut Console,
    clock: ProcessClock,
) -> Result<Summary> {
    let mut session = Session::prepare(config, console)?;
    let mut run = folder.begin(config)?;
    let outcome =
        catch_torch_error("training", || train_in(&mut run, &mut session, config, console, clock));
    let outcome = outcome.map_err(Error::from).flatten();
    let outcome = outcome.map_err(|error| error.while_training(config));
    match &outcome {
        Ok(_) => run.end(Outcome::Finished, None)?,
        // The run's own failure is the one to tell.
        Err(error) => drop(run.end(Outcome::Failed, Some(error.to_string()))),
    }
    outcome
}

/// Trains in a folder that is there, and leaves everything but the run's end in it.
fn train_in(
    run: &mut RunFolder,
    session: &mut Session,
    config: &Config,
    console: &mut Console,
    clock: ProcessClock,
) -> Result<Summary> {
    let mut meter = Meter::new();
    let max_steps = config.train.max_steps;
    let mut first_step_s = 0.0;

    run.reserve(session.export_bytes())?;
    session.describe().iter().for_each(|line| console.line(line));
    console.begin("training", max_steps);
    for step in 1..=max_steps {
        meter.begin_step();
        let outcome = session.step(step)?;
        meter.end_step(step, outcome, clock.elapsed());
        if step == 1 || step == max_steps || step % config.train.log_every == 0 {
            report(session, &mut meter, run, console, clock)?;
        }
        if step == 1 {
            first_step_s = clock.elapsed().as_secs_f64();
        }
        console.advance_to(step);
    }
    console.end();

    let trained_s = clock.elapsed().as_secs_f64();
    run.export(session.export_bytes(), |folder| session.export(folder))?;
    run.replace_old()?;
    let held_out_loss = session.held_out_loss()?;
    let mut summary = session.summary(&meter)?;
    summary.time_to_first_step_s = first_step_s;
    summary.total_time_s = trained_s;
    summary.held_out_loss = held_out_loss;
    run.write_summary(&summary)?;
    console.summary(&summary, run.path());
    Ok(summary)
}

/// Reads the losses since the last report, records them, and prints the latest: the loop's one wait
/// for the device.
fn report(
    session: &mut Session,
    meter: &mut Meter,
    run: &mut RunFolder,
    console: &Console,
    clock: ProcessClock,
) -> Result<()> {
    let records = meter.flush()?;
    run.log(&records)?;
    [session.take_note(), run.take_note()].iter().flatten().for_each(|note| console.line(note));
    if let Some(latest) = records.last() {
        console.step(latest, session.max_steps(), clock.elapsed());
        refuse_divergence(latest)?;
    }
    session.settle()
}

fn refuse_divergence(latest: &StepRecord) -> Result<()> {
    if latest.loss.is_finite() {
        return Ok(());
    }
    Err(Error::Diverged {
        step: latest.step,
        reason: format!(
            "the loss is {}; try a lower optimizer.adamw.lr or a longer schedule.warmup",
            latest.loss
        ),
    })
}
