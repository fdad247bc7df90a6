//! A run's checkpoints: where they are, and which is the newest that is whole.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::Checkpoint;
use crate::error::{Error, Result};
use crate::run_folder::{CHECKPOINTS, holds_run};

/// The complete checkpoints of the run in `run`, the newest first.
///
/// # Errors
/// What the system says.
pub fn list(run: &Path) -> Result<Vec<Checkpoint>> {
    let folder = run.join(CHECKPOINTS);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(&folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(&folder))?.path();
        found.extend(Checkpoint::at(&path).filter(Checkpoint::is_complete));
    }
    found.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.step));
    Ok(found)
}

/// The newest checkpoint of the run in `run` that is as it was written, and a line about each newer
/// one that is not.
///
/// # Errors
/// There is none.
pub fn newest_whole(run: &Path) -> Result<(Checkpoint, Vec<String>)> {
    let mut damaged = Vec::new();
    for checkpoint in list(run)? {
        match checkpoint.verify() {
            Ok(()) => return Ok((checkpoint, damaged)),
            Err(error) => {
                tracing::debug!(%error, "a checkpoint is not whole");
                damaged.push(error.to_string());
            }
        }
    }
    let reason = match damaged.first() {
        None => "holds no checkpoint to go on from; train anew with --overwrite".to_owned(),
        Some(first) => format!("holds no whole checkpoint to go on from: {first}"),
    };
    Err(Error::RunFolder { path: run.to_owned(), reason })
}

/// The run that `path` belongs to, and the checkpoint that it names, if it is one rather than a
/// run.
///
/// # Errors
/// A path that is neither.
pub fn locate(path: &Path) -> Result<(PathBuf, Option<Checkpoint>)> {
    if holds_run(path) {
        return Ok((path.to_owned(), None));
    }
    let run = path.parent().and_then(Path::parent).filter(|run| holds_run(run));
    match (run, Checkpoint::at(path).filter(Checkpoint::is_complete)) {
        (Some(run), Some(checkpoint)) => Ok((run.to_owned(), Some(checkpoint))),
        _ => {
            let reason = "is neither a run nor one of its checkpoints, RUN/checkpoints/step-N";
            Err(Error::RunFolder { path: path.to_owned(), reason: reason.into() })
        }
    }
}

/// Removes checkpoints but the newest `keep` and the best by held-out loss, and what was being
/// written when a process ended.
///
/// # Errors
/// What the system says.
pub(super) fn prune(run: &Path, keep: usize) -> Result<()> {
    let all = list(run)?;
    let loss = |checkpoint: &Checkpoint| {
        checkpoint.progress().ok().and_then(|progress| progress.held_out_loss)
    };
    let measured = all.iter().filter_map(|checkpoint| Some((loss(checkpoint)?, checkpoint.step)));
    let best = measured.min_by(|left, right| left.0.total_cmp(&right.0)).map(|(_, step)| step);
    let superfluous = all.iter().skip(keep).filter(|checkpoint| Some(checkpoint.step) != best);
    superfluous.into_iter().try_for_each(Checkpoint::remove)
}

/// Removes the checkpoints after `step`, which a run that goes on from there writes anew.
///
/// # Errors
/// What the system says.
pub(crate) fn forget_after(run: &Path, step: u64) -> Result<()> {
    list(run)?.iter().filter(|checkpoint| checkpoint.step > step).try_for_each(Checkpoint::remove)
}
