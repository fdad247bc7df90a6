//! Where a run is written: a folder that is free, or that of a run to go on with.

use std::path::Path;

use bert4rs_train::Result;
use bert4rs_train::checkpoint;
use bert4rs_train::console::Console;
use bert4rs_train::run::Start;
use bert4rs_train::run_folder::{ClaimedFolder, default_path, holds_run};

use super::refuse_flag;

/// What flags say of a run's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlaceFlags<'a> {
    /// `--out`.
    pub(super) out: Option<&'a Path>,
    /// `--overwrite`.
    pub(super) overwrite: bool,
    /// `--resume`.
    pub(super) resume: Option<&'a Path>,
    /// `--config`.
    pub(super) config: Option<&'a Path>,
    /// What the folder is called where none is named.
    pub(super) name: &'a str,
}

impl PlaceFlags<'_> {
    /// The place of a run of one process.
    pub(super) fn start(self, console: &Console) -> Result<Start> {
        match self.resume {
            Some(resume) => self.resumed(resume, console),
            None => self.begun(),
        }
    }

    /// The place of a run of several processes, which were started anew so many times.
    pub(super) fn start_of_several(self, restarts: u64, console: &Console) -> Result<Start> {
        match self.resume {
            // The first of several starts with the same flags, or one before any checkpoint.
            Some(resume) if resume == Path::new("auto") && self.nothing_saved() => {
                self.begun_again(restarts)
            }
            _ => self.start(console),
        }
    }

    /// A run that begins, in a folder that is free.
    fn begun(self) -> Result<Start> {
        let out = self.out.map_or_else(|| default_path(self.name), Path::to_owned);
        let folder = ClaimedFolder::claim(&out, self.overwrite)?;
        Ok(Start { folder, checkpoint: None })
    }

    /// A run that begins where a start before it may have left a folder without a checkpoint.
    fn begun_again(self, restarts: u64) -> Result<Start> {
        match self.out {
            Some(out) if restarts > 0 && holds_run(out) => {
                Ok(Start { folder: ClaimedFolder::reopen(out)?, checkpoint: None })
            }
            _ => self.begun(),
        }
    }

    /// Whether --out has no checkpoint to go on from.
    fn nothing_saved(self) -> bool {
        let is_empty = |out: &Path| {
            !holds_run(out) || checkpoint::store::list(out).is_ok_and(|found| found.is_empty())
        };
        self.out.is_some_and(is_empty)
    }

    /// The run and its checkpoint to go on from.
    fn resumed(self, resume: &Path, console: &Console) -> Result<Start> {
        if self.overwrite {
            let reason = "and --resume exclude each other; leave one out";
            return Err(refuse_flag("--overwrite", reason));
        }
        let beside_config = self.config.and_then(Path::parent);
        let (run, named) = match (resume == Path::new("auto"), self.out, beside_config) {
            (false, ..) => checkpoint::locate(resume)?,
            (true, Some(out), _) => (out.to_owned(), None),
            (true, None, Some(folder)) => (folder.to_owned(), None),
            (true, None, None) => {
                let reason =
                    "auto needs to know the run: give --out DIR, or --config DIR/config.toml";
                return Err(refuse_flag("--resume", reason));
            }
        };
        if self.out.is_some_and(|out| *out != run) {
            let reason = "is another run than that of --resume; leave it out";
            return Err(refuse_flag("--out", reason));
        }
        let folder = ClaimedFolder::reopen(&run)?;
        let checkpoint = match named {
            Some(checkpoint) => checkpoint::whole_or_next(&run, checkpoint)?,
            None => {
                let (newest, damaged) = checkpoint::newest_whole(&run)?;
                damaged.iter().for_each(|line| console.line(&format!("resume     {line}")));
                newest
            }
        };
        console.line(&format!("resume     after step {}", checkpoint.step));
        Ok(Start { folder, checkpoint: Some(checkpoint) })
    }
}

/// The error for a flag that goes with no other process or flag.
pub(super) fn for_one_process(flags: &[(&str, bool)]) -> Result<()> {
    match flags.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => {
            Err(refuse_flag(flag, "is for one process; start it without a launcher"))
        }
        None => Ok(()),
    }
}
