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

/// The checkpoint that somebody asked for, if it is as it was written.
///
/// # Errors
/// What is wrong with it, and which the newest whole one is.
pub fn whole_or_next(run: &Path, asked: Checkpoint) -> Result<Checkpoint> {
    let Err(error) = asked.verify() else { return Ok(asked) };
    let whole = newest_whole(run).ok().map(|(checkpoint, _)| checkpoint.path);
    match whole {
        Some(path) => {
            let reason = format!(
                "{error}; the newest whole checkpoint is {}, which --resume auto takes",
                path.display()
            );
            Err(Error::RunFolder { path: run.to_owned(), reason })
        }
        None => Err(error),
    }
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
    remove_partial(&run.join(CHECKPOINTS))?;
    let all = list(run)?;
    let loss = |checkpoint: &Checkpoint| {
        checkpoint.progress().ok().and_then(|progress| progress.held_out_loss)
    };
    let measured = all.iter().filter_map(|checkpoint| Some((loss(checkpoint)?, checkpoint.step)));
    let best = measured.min_by(|left, right| left.0.total_cmp(&right.0)).map(|(_, step)| step);
    let superfluous = all.iter().skip(keep).filter(|checkpoint| Some(checkpoint.step) != best);
    superfluous.into_iter().try_for_each(Checkpoint::remove)
}

/// Removes what was being written to `folder` when a process, or a disk, ended it.
fn remove_partial(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        let stem = path.file_stem().map(|stem| folder.join(stem));
        let is_ours = stem.is_some_and(|stem| Checkpoint::at(&stem).is_some());
        if is_ours && path.extension().is_some_and(|extension| extension == "partial") {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// Removes the checkpoints after `step`, which a run that goes on from there writes anew.
///
/// # Errors
/// What the system says.
pub(crate) fn forget_after(run: &Path, step: u64) -> Result<()> {
    list(run)?.iter().filter(|checkpoint| checkpoint.step > step).try_for_each(Checkpoint::remove)
}
