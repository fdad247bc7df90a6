//! `cargo xtask torture`: runs that are killed, whose disks are full or read-only, and whose
//! checkpoints are damaged, each held to the bit against one that nobody disturbed.
//!
//! | module | holds |
//! | --- | --- |
//! | `bench` | a small run, and what must be equal of two |
//! | `kills` | `kill -9` at random moments |
//! | `damage` | a changed byte or a missing file in a checkpoint |
//! | `disk` | full and read-only disks |

mod bench;
mod damage;
mod disk;
mod kills;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::checkout::Checkout;
use crate::console;
use crate::error::{Error, Result};
use crate::program::{self, With};
use bench::Bench;

/// Kill runs, fill their disks and damage their checkpoints; all must go on to the bit
///
/// Takes some minutes. Full and read-only disks are small tmpfs mounts, for which one must be root;
/// else they are left out, and that is said.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often a run is killed
    #[arg(long, value_name = "N", default_value_t = 50)]
    kills: u32,
    /// Go on killing for so long
    #[arg(long, value_name = "MINUTES", default_value_t = 0)]
    minutes: u64,
    /// Decides the moments and the bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A program to use instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Runs all of it, and says what came of each.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<ExitCode> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => program::build(checkout, With::Nothing)?,
    };
    let until = Instant::now() + Duration::from_secs(60 * args.minutes);
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let bench = Bench::new(checkout, program)?;
    console::line(format_args!("in {}", bench.folder().display()));
    let mut failed = false;
    let mut tell = |name: &str, outcome: Result<String>| match outcome {
        Ok(found) => console::line(format_args!("{name}: {found}")),
        Err(error) => {
            console::note(format_args!("{name}: {error}"));
            failed = true;
        }
    };
    tell("kill -9", kills::run(&bench, &mut random, args.kills, until));
    tell("damage", damage::run(&bench, &mut random));
    tell("disks", disk::run(&bench));
    if failed {
        console::note(format_args!("what there is stays in {}", bench.folder().display()));
        return Ok(ExitCode::FAILURE);
    }
    bench.remove().map(|()| ExitCode::SUCCESS)
}

/// A run that did not hold.
fn broken(what: impl Into<String>) -> Error {
    Error::NotLasting(what.into())
}
