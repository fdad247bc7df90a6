//! A folder taken for a run before the run has anything to put in.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::lock::FolderLock;
use super::names::{self, CONFIG, METRICS};
use super::state::RunState;
use super::{RunFolder, metrics_file};
use crate::config::to_toml;
use crate::error::{Error, Result};

/// A folder that is this run's alone, but holds nothing of it yet. Dropped unused, all is as it
/// was.
#[derive(Debug)]
pub struct ClaimedFolder {
    place: Place,
    /// The run that this one is to replace.
    old: Option<Place>,
}

impl ClaimedFolder {
    /// Claims `path`, so that a run fails before it works rather than after. A run that is there
    /// and is to be overwritten stays until the new one, written beside it, is worth more:
    /// [`RunFolder::replace_old`].
    ///
    /// # Errors
    /// A path that another process has claimed, that holds a run without `overwrite`, or that
    /// holds something else in any case; a place that can't be written to.
    pub fn claim(path: &Path, overwrite: bool) -> Result<Self> {
        let mut place = Place::take(path)?;
        if !names::holds_run(path) {
            return Ok(Self { place, old: None });
        }
        if !overwrite {
            return refuse(
                path,
                "holds a run; choose another folder with --out, or add --overwrite",
            );
        }
        // Where links are followed, the old run's folder has a parent on the same disk.
        let real = path.canonicalize().map_err(Error::io(path))?;
        let beside = Place::take(&sibling(&real)?)?;
        place.path = real;
        Ok(Self { place: beside, old: Some(place) })
    }

    /// Claims the run in `path` to go on with it.
    ///
    /// # Errors
    /// A path that holds no run, or one that another process writes.
    pub fn reopen(path: &Path) -> Result<Self> {
        if !names::holds_run(path) {
            return refuse(path, "holds no run to go on with");
        }
        Ok(Self { place: Place::take(path)?, old: None })
    }

    /// Where the run will lie at first; see [`RunFolder::path`].
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Removes what a run that was cut off left here, and starts this one, whose settings become
    /// `config.toml`.
    ///
    /// # Errors
    /// What the system says, and settings that TOML can't hold.
    pub fn begin(self, settings: &impl Serialize) -> Result<RunFolder> {
        let path = self.place.path.clone();
        names::clear(&path).map_err(Error::io(&path))?;
        let begun = metrics_file::create(&path.join(METRICS))
            .and_then(|metrics| self.start(settings, metrics));
        if begun.is_err() {
            // The first failure is the one to tell.
            let _ = names::clear(&path);
        }
        begun
    }

    /// Goes on with the run that is here after step `last_step`; later steps' metrics, which will
    /// be computed again, are removed.
    ///
    /// # Errors
    /// What the system says, and metrics that are none.
    pub fn go_on(self, settings: &impl Serialize, last_step: u64) -> Result<RunFolder> {
        let metrics = metrics_file::keep_until(&self.place.path.join(METRICS), last_step)?;
        self.start(settings, metrics)
    }

    fn start(self, settings: &impl Serialize, metrics: File) -> Result<RunFolder> {
        let Self { place, old } = self;
        RunState::begin().write(&place.path)?;
        super::write(&place.path.join(CONFIG), to_toml(settings)?.as_bytes())?;
        Ok(RunFolder::new(place.keep(), old.map(Place::keep), metrics))
    }
}

/// The first free folder of the form `runs/NAME-N`.
pub fn default_path(name: &str) -> PathBuf {
    let numbered = (1u64..).map(|number| PathBuf::from(format!("runs/{name}-{number}")));
    numbered.into_iter().find(|path| !path.exists()).unwrap_or_else(|| "runs/run".into())
}

/// `NAME.new` beside `NAME`, on the same disk.
fn sibling(path: &Path) -> Result<PathBuf> {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return refuse(path, "has no place beside it for a new run; choose a folder inside it");
    };
    if device(parent) != device(path) {
        let reason = "is a disk of its own, so that a new run can't take its place at once; \
                      choose a folder inside it with --out";
        return refuse(path, reason);
    }
    let mut name = name.to_owned();
    name.push(".new");
    Ok(parent.join(name))
}

/// A locked folder.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Whether the folder, and whether its marker, was made here.
    made: bool,
    marked: bool,
    /// Absent once the place is used.
    lock: Option<FolderLock>,
}

impl Place {
    /// Makes and locks a folder that is empty or a run's.
    fn take(path: &Path) -> Result<Self> {
        loop {
            let made = make_folder(path)?;
            if !made && !is_free(path)? {
                let reason = "is neither empty nor a run; choose another folder with --out";
                return refuse(path, reason);
            }
            let marked = !names::is_marked(path);
            match FolderLock::take(path) {
                Ok(Some(lock)) => {
                    return Ok(Self { path: path.to_owned(), made, marked, lock: Some(lock) });
                }
                Ok(None) => {
                    let reason = "is being written by another process; wait for its end, or \
                                  choose another folder with --out";
                    return refuse(path, reason);
                }
                // Another process, which made the folder, gave it up.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(path)(error)),
            }
        }
    }

    /// The path and its lock, for the run that begins.
    fn keep(mut self) -> (PathBuf, Option<FolderLock>) {
        (std::mem::take(&mut self.path), self.lock.take())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.lock.is_some() {
            if self.marked {
                let _ = fs::remove_file(self.path.join(names::MARKER));
            }
            if self.made {
                // Fails where something else was put in meanwhile, which is then kept.
                let _ = fs::remove_dir(&self.path);
            }
        }
    }
}

/// Makes `path` and the folders above it; whether it was not there before.
fn make_folder(path: &Path) -> Result<bool> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(_) if path.is_dir() => Ok(false),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            refuse(path, "is a file; choose another folder with --out")
        }
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// Whether a run may be put in `path`: it is marked as a run's, or empty.
fn is_free(path: &Path) -> Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(names::is_marked(path) || entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io(path)(error)),
    }
}

fn refuse<T>(path: &Path, reason: &str) -> Result<T> {
    Err(Error::RunFolder { path: path.to_owned(), reason: reason.to_owned() })
}
