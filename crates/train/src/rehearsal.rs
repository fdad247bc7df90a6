//! Steps that are taken and thrown away, to tell what a run would be, and which learning rate it
//! is to have.

use std::time::{Duration, Instant};

use bert4rs_tensor_core::error::{Context, catch_torch_error};
use bert4rs_tensor_core::memory;

use crate::build::{self, WeightSource};
use crate::captured_steps;
use crate::config::Config;
use crate::console::Console;
use crate::description::describe;
use crate::error::{Error, Result, in_units};
use crate::execution::Execution;
use crate::lr_range::{RangeTest, Suggestion};
use crate::run::export_bytes;
use crate::trainer::Trainer;

/// Steps before those that are timed: caches, buffers and kernels are being set up.
const WARM_UP: u64 = 2;
/// Of steps that are captured: the capture and the first replay too.
const WARM_UP_CAPTURED: u64 = captured_steps::WARM_UP as u64 + 2;
const TIMED: u32 = 3;

/// Tells what a run of `config` would be: its steps, tokens, time and memory, as a few steps
/// foretell them. Leaves nothing but the tokens of the corpus in the cache.
///
/// # Errors
/// What the beginning of training could refuse.
pub fn dry_run(config: &Config, console: &Console) -> Result<()> {
    let machine = build::machine(config)?;
    let parts = build::parts(config, &machine, WeightSource::Initial, &mut console.preparation())?;
    console.end();
    describe(config, &machine, &parts).iter().for_each(|line| console.line(line));
    let (max_steps, max_time) = (parts.options.max_steps, parts.options.max_time);
    let (on_disk, epoch_batches) = (export_bytes(&parts, config), parts.data.epoch_batches);
    let (mut trainer, _) = parts.into_trainer()?;
    let measured = catch_torch_error("training", || measure(&mut trainer)).map_err(Error::from);
    let (time, tokens) = measured.flatten().map_err(|error| error.while_training(config))?;
    let steps = match max_time {
        Some(all) => (all.as_secs_f64() / time.as_secs_f64().max(1e-9)).ceil() as u64,
        None => max_steps,
    };
    let batches = steps as f64 * f64::from(config.train.accumulate);
    let passes = batches / epoch_batches.max(1) as f64;
    let all_s = time.as_secs_f64() * steps as f64;
    let peak = memory::process().map_or(0, |memory| memory.peak_resident);
    for (label, value) in [
        ("steps", format!("{steps}, {passes:.2} passes over the corpus")),
        ("tokens", format!("{:.2} M", tokens * steps as f64 / 1e6)),
        ("time", format!("about {all_s:.0} s, {:.3} s a step", time.as_secs_f64())),
        ("tokens/s", format!("about {:.0}", tokens / time.as_secs_f64())),
        ("memory", format!("about {}", in_units(peak))),
        ("on disk", format!("at most {}", in_units(on_disk))),
    ] {
        console.line(&format!("{label:<11}{value}"));
    }
    Ok(())
}

/// Time and tokens of a step.
fn measure(trainer: &mut Trainer) -> Result<(Duration, f64)> {
    let captured = trainer.options().execution == Execution::CudaGraphs;
    for _ in 0..if captured { WARM_UP_CAPTURED } else { WARM_UP } {
        trainer.step()?;
    }
    let (began, mut tokens) = (Instant::now(), 0);
    for _ in 0..TIMED {
        let outcome = trainer.step()?;
        // A GPU may still compute what the step asked for.
        outcome.loss.f_double_value(&[]).during("read the loss")?;
        tokens += outcome.size.tokens;
    }
    Ok((began.elapsed() / TIMED, tokens as f64 / f64::from(TIMED)))
}

/// Trains with a rate that rises as the schedule of `config` says, until the loss has turned, and
/// tells which rate to train with.
///
/// # Errors
/// What the beginning of training could refuse.
pub fn find_lr(config: &Config, console: &Console) -> Result<Option<Suggestion>> {
    let machine = build::machine(config)?;
    let parts = build::parts(config, &machine, WeightSource::Initial, &mut console.preparation())?;
    console.end();
    let steps = parts.options.max_steps;
    let (mut trainer, _) = parts.into_trainer()?;
    let mut test = RangeTest::default();
    console.begin("finding a learning rate", steps);
    for step in 1..=steps {
        let outcome = trainer.step()?;
        let loss = outcome.loss.f_double_value(&[]).during("read the loss")?;
        test.push(outcome.lr, loss);
        console.advance_to(step);
        if test.is_over() {
            break;
        }
    }
    console.end();
    show(&test, console);
    Ok(test.suggestion())
}

/// Some of the steps, from the first to the last.
fn show(test: &RangeTest, console: &Console) {
    const SHOWN: usize = 16;
    let points = test.points();
    console.line("learning rate  smoothed loss");
    for (lr, loss) in points.iter().step_by(points.len().div_ceil(SHOWN).max(1)) {
        console.line(&format!("{lr:>13.2e}  {loss:>13.4}"));
    }
}
