//! `kill -9` at random moments, while checkpoints are written as often as can be.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::Rng;

use super::bench::{Bench, checkpoints};
use super::broken;
use crate::console;
use crate::error::{Error, Result};

/// Lives end within so many milliseconds after their first checkpoint, every fourth after the
/// program's start.
const LONGEST_MS: u64 = 1500;

/// What was seen.
#[derive(Default)]
struct Tally {
    kills: u32,
    /// Kills that found a checkpoint being written.
    while_writing: u32,
    before_the_first: u32,
    finished: u32,
    checkpoints: u64,
}

/// Kills at least `kills` times and until `until`, and lets the last run finish.
pub(super) fn run(
    bench: &Bench,
    random: &mut impl Rng,
    kills: u32,
    until: Instant,
) -> Result<String> {
    let (run, mut tally) = (bench.folder().join("killed"), Tally::default());
    while tally.kills < kills || Instant::now() < until {
        live(bench, random, &run, &mut tally)?;
        if tally.kills.is_multiple_of(10) {
            console::note(format_args!("{} kills", tally.kills));
        }
    }
    if run.exists() {
        bench.finish(&run, resume(&run))?;
        bench.check_result(&run)?;
        tally.finished += 1;
    }
    let Tally { kills, while_writing, before_the_first, finished, checkpoints } = tally;
    Ok(format!(
        "{kills} of {kills} survived ({while_writing} while a checkpoint was written, \
         {before_the_first} before the first); {checkpoints} checkpoints found after them and \
         {finished} finished runs equal to the bit"
    ))
}

/// One life of the run, from its newest checkpoint to a kill or its end.
fn live(bench: &Bench, random: &mut impl Rng, run: &Path, tally: &mut Tally) -> Result<()> {
    let before = checkpoints(run);
    if before.is_empty() && run.exists() {
        // Killed before there was anything to go on from.
        fs::remove_dir_all(run).map_err(Error::at(run))?;
    }
    let mut child = bench.start(run, resume(run))?;
    if !tally.kills.is_multiple_of(4) {
        while checkpoints(run).last() <= before.last()
            && child.try_wait().map_err(Error::at(run))?.is_none()
        {
            sleep(Duration::from_millis(2));
        }
    }
    sleep(Duration::from_millis(random.random_range(0..LONGEST_MS)));
    let ended = child.try_wait().map_err(Error::at(run))?;
    if let Some(status) = ended {
        if !status.success() {
            return Err(broken(format!("{} ended by itself: {status}", run.display())));
        }
        bench.check_result(run)?;
        tally.finished += 1;
        return fs::remove_dir_all(run).map_err(Error::at(run));
    }
    child.kill().and_then(|()| child.wait()).map_err(Error::at(run))?;
    tally.kills += 1;
    let is_partial = |entry: fs::DirEntry| entry.path().extension().is_some_and(|e| e == "partial");
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    tally.while_writing += u32::from(entries.into_iter().any(is_partial));
    let after = checkpoints(run);
    if before.last() > after.last() {
        return Err(broken(format!("the checkpoint after step {before:?} was lost: {after:?}")));
    }
    tally.before_the_first += u32::from(after.is_empty());
    tally.checkpoints += after.len() as u64;
    after.iter().try_for_each(|&step| bench.check_checkpoint(run, step))
}

fn resume(run: &Path) -> &'static [&'static str] {
    if checkpoints(run).is_empty() { &[] } else { &["--resume", "auto"] }
}
