//! `cargo xtask test`: everything that must hold before a change goes in, the cheapest first.

mod cargo_check;
mod examples;
mod outside;
mod sanitizer;
mod short_run;
mod skips;

use std::process::ExitCode;
use std::time::Instant;

use crate::checkout::Checkout;
use crate::error::Result;
use crate::{console, setup};

use cargo_check::{CHECKS, CargoCheck, DEBUG_CHECKS, PACKAGE};
use sanitizer::Sanitizer;
use short_run::{RUNS, ShortRun};
use skips::{Skip, Skips};

/// Run all checks and tests, the cheapest first, and stop at the first that fails
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out short training runs, packages, examples, overflow checks and sanitizers
    #[arg(long, conflicts_with = "long")]
    fast: bool,
    /// Also projects outside the checkout, which compile all that they depend on again: ten minutes
    /// more on two cores
    #[arg(long)]
    long: bool,
    /// Only the checks whose names contain this, the long ones too
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Runs the checks; ends with the line `N passed, N failed, N skipped`.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    setup::ensure(checkout)?;
    let (mut passed, mut failed) = (0, 0);
    let mut skips = Skips::default();
    let only = args.only.as_deref().unwrap_or_default();
    let extent = match (args.fast, args.long || args.only.is_some()) {
        (true, _) => Extent::Fast,
        (false, true) => Extent::Long,
        (false, false) => Extent::Usual,
    };
    for check in checks(extent).iter().filter(|check| check.name().contains(only)) {
        match check.run(checkout) {
            Some(CheckOutcome::Passed(found)) => {
                passed += 1;
                skips.extend(found);
            }
            Some(CheckOutcome::Skipped(reason)) => skips.extend([Skip::new(check.name(), reason)]),
            None => {
                failed += 1;
                break;
            }
        }
    }
    console::line(format_args!("\nall checks: {}", console::seconds(started.elapsed())));
    skips.iter().for_each(|skip| console::line(format_args!("skipped {skip}")));
    console::line(format_args!("{passed} passed, {failed} failed, {} skipped", skips.len()));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of a check that did not fail.
pub(crate) enum CheckOutcome {
    /// It held, but for the tests inside that were skipped.
    Passed(Vec<Skip>),
    /// It cannot be made on this machine, for this reason.
    Skipped(String),
}

enum Check {
    Cargo(&'static CargoCheck),
    Examples,
    Sanitizer(Sanitizer),
    Outside,
    ShortRun(ShortRun),
}

/// How much is checked.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Extent {
    Fast,
    Usual,
    Long,
}

fn checks(extent: Extent) -> Vec<Check> {
    let mut checks: Vec<Check> = CHECKS.iter().map(Check::Cargo).collect();
    if extent >= Extent::Usual {
        checks.extend(RUNS.map(Check::ShortRun));
        checks.extend([Check::Cargo(&PACKAGE), Check::Examples]);
        checks.extend(Sanitizer::ALL.map(Check::Sanitizer));
        // The last: it compiles three crates with other flags.
        checks.push(Check::Cargo(&DEBUG_CHECKS));
    }
    if extent == Extent::Long {
        checks.push(Check::Outside);
    }
    checks
}

impl Check {
    /// Makes the check, says how it went and how to repeat it; nothing where it failed.
    fn run(&self, checkout: &Checkout) -> Option<CheckOutcome> {
        let (name, by_hand) = (self.name(), self.by_hand(checkout));
        console::line(format_args!("\n== {name}: {by_hand}"));
        let started = Instant::now();
        let result = match self {
            Check::Cargo(check) => check.run(checkout).map(CheckOutcome::Passed),
            Check::Sanitizer(sanitizer) => sanitizer.run(checkout),
            Check::Examples => examples::run(checkout).map(CheckOutcome::Passed),
            Check::Outside => outside::run(checkout).map(|()| CheckOutcome::Passed(Vec::new())),
            Check::ShortRun(run) => run.run(checkout).map(|()| CheckOutcome::Passed(Vec::new())),
        };
        let took = console::seconds(started.elapsed());
        match &result {
            Ok(CheckOutcome::Passed(_)) => {
                console::line(format_args!("== {name} passed in {took}"))
            }
            Ok(CheckOutcome::Skipped(reason)) => {
                console::line(format_args!("== {name} skipped: {reason}"));
            }
            Err(error) => {
                console::line(format_args!("== {name} FAILED after {took}: {error}"));
                console::line(format_args!("   repeat it with: {by_hand}"));
            }
        }
        result.ok()
    }

    fn name(&self) -> String {
        match self {
            Check::Cargo(check) => check.name.to_owned(),
            Check::Examples => "examples".to_owned(),
            Check::Outside => "projects outside".to_owned(),
            Check::Sanitizer(sanitizer) => format!("CUDA emulator under {}", sanitizer.flag()),
            Check::ShortRun(run) => run.name(),
        }
    }

    /// The check as one would type it.
    fn by_hand(&self, checkout: &Checkout) -> String {
        match self {
            Check::Cargo(check) => check.by_hand(checkout),
            Check::Sanitizer(sanitizer) => sanitizer.by_hand(checkout),
            Check::Examples | Check::Outside => {
                format!("cargo xtask test --only '{}'", self.name())
            }
            Check::ShortRun(run) => run.by_hand(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_test_trains_nothing_and_a_long_one_leaves_the_checkout() {
        let quick = CHECKS.len();
        assert_eq!(checks(Extent::Fast).len(), quick);
        let usual = quick + RUNS.len() + Sanitizer::ALL.len() + 3;
        assert_eq!(checks(Extent::Usual).len(), usual);
        assert_eq!(checks(Extent::Long).len(), usual + 1);
    }
}
