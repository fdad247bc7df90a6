//! The user's cache: what lies in it, which runs use it, and what may go.
//!
//! Tokenized corpora are folders in `tokens/`, and what came by standard input are files in
//! `standard-input/`. Beside each, `NAME.runs` lists the runs that were trained on it, a path a
//! line: as long as one of them exists, it may want to go on.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::report::recorded::size;
use crate::run_folder::holds_run;

/// The folder of tokenized corpora in the cache.
const DATASETS: &str = "tokens";
/// The folder of what came by standard input.
const INPUTS: &str = "standard-input";

/// The cache's folder: `$XDG_CACHE_HOME/bert4rs`, else `~/.cache/bert4rs`.
///
/// # Errors
/// Neither variable is set.
pub fn root() -> Result<PathBuf> {
    let from = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
    let base = from("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| from("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.map(|base| base.join("bert4rs")).ok_or_else(|| Error::Config {
        origin: "environment".into(),
        key: "XDG_CACHE_HOME".into(),
        reason: "neither XDG_CACHE_HOME nor HOME is set; set one, to keep tokenized text".into(),
    })
}

/// The folder that tokenized corpora are kept in.
///
/// # Errors
/// As [`root`].
pub fn datasets() -> Result<PathBuf> {
    Ok(root()?.join(DATASETS))
}

/// The folder that text of standard input is kept in.
///
/// # Errors
/// As [`root`].
pub fn inputs() -> Result<PathBuf> {
    Ok(root()?.join(INPUTS))
}

/// Writes down that the run in `run` is trained on those of `corpora` that are kept in [`inputs`].
///
/// # Errors
/// As [`note_use`].
pub(crate) fn note_inputs<'a>(
    corpora: impl IntoIterator<Item = &'a Path>,
    run: &Path,
) -> Result<()> {
    let Ok(folder) = inputs() else { return Ok(()) };
    let kept = corpora.into_iter().filter(|path| path.parent() == Some(&*folder));
    kept.into_iter().try_for_each(|path| note_use(path, run))
}

/// Writes down that the run in `run` is trained on `dataset`, a folder of [`datasets`] or a file of
/// [`inputs`].
///
/// # Errors
/// What the system says.
pub fn note_use(dataset: &Path, run: &Path) -> Result<()> {
    let list = dataset.with_extension("runs");
    let run = std::path::absolute(run).map_err(Error::io(run))?;
    let mut runs = runs_of(dataset);
    // Written also where it is known already: the file's time is that of the last use.
    runs.retain(|path| holds_run(path) && *path != run);
    runs.insert(run);
    let text: String = runs.iter().map(|path| format!("{}\n", path.display())).collect();
    let mut file = File::create(&list).map_err(Error::io(&list))?;
    file.write_all(text.as_bytes()).map_err(Error::io(&list))
}

fn runs_of(dataset: &Path) -> BTreeSet<PathBuf> {
    let text = fs::read_to_string(dataset.with_extension("runs")).unwrap_or_default();
    text.lines().map(PathBuf::from).collect()
}

/// What an entry of the cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A tokenized corpus, and the runs trained on it that still exist.
    Dataset(BTreeSet<PathBuf>),
    /// Text that came by standard input, and the runs trained on it that still exist.
    Input(BTreeSet<PathBuf>),
    /// What a process that was killed left of one.
    Leftover,
    /// Anything else, such as libtorch, which programs are linked to: never trimmed.
    Other,
}

/// A file or folder of the cache.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it lies.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its size.
    pub bytes: u64,
    /// When it was made or a run last began with it.
    pub used: SystemTime,
}

impl Entry {
    /// Whether nothing is lost but time if it goes: nobody uses it, and nobody did for `age`.
    pub fn may_go(&self, age: Duration) -> bool {
        let is_free = match &self.kind {
            Kind::Dataset(runs) | Kind::Input(runs) => runs.is_empty(),
            Kind::Leftover => true,
            Kind::Other => false,
        };
        // A clock that was set back makes nothing old.
        is_free && self.used.elapsed().is_ok_and(|unused| unused >= age)
    }

    /// Removes it, unless a process makes it just now; whether it did.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self) -> Result<bool> {
        let lock = self.path.with_extension("lock");
        let file = File::create(&lock).map_err(Error::io(&lock))?;
        if file.try_lock().is_err() {
            return Ok(false);
        }
        let removed = match self.path.is_dir() {
            true => fs::remove_dir_all(&self.path),
            false => fs::remove_file(&self.path),
        };
        removed.map_err(Error::io(&self.path))?;
        for beside in [self.path.with_extension("runs"), lock] {
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(&beside)(error));
                }
                _ => {}
            }
        }
        Ok(true)
    }
}

/// What lies in the cache at `root`, by name; nothing where there is none.
///
/// # Errors
/// What the system says.
pub fn entries(root: &Path) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    for path in children(root)? {
        let (kind, is_folders): (fn(_) -> _, _) = match path.file_name().and_then(OsStr::to_str) {
            Some(DATASETS) => (Kind::Dataset, true),
            Some(INPUTS) => (Kind::Input, false),
            _ => {
                found.push(entry(path, Kind::Other)?);
                continue;
            }
        };
        for path in children(&path)? {
            match path.extension().and_then(|ending| ending.to_str()) {
                None if path.is_dir() == is_folders => found.push(used_by_runs(path, kind)?),
                Some("partial") if path.is_dir() == is_folders && !is_being_written(&path) => {
                    found.push(entry(path, Kind::Leftover)?);
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Whether `path` has the number of a living process: what comes by standard input is written so.
fn is_being_written(path: &Path) -> bool {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let is_number = name.parse::<u32>().is_ok();
    path.is_file() && is_number && Path::new("/proc").join(name).exists()
}

fn used_by_runs(path: PathBuf, kind: fn(BTreeSet<PathBuf>) -> Kind) -> Result<Entry> {
    let runs = runs_of(&path).into_iter().filter(|run| holds_run(run)).collect();
    let list = path.with_extension("runs");
    let mut entry = entry(path, kind(runs))?;
    if let Ok(used) = fs::metadata(&list).and_then(|metadata| metadata.modified()) {
        entry.used = entry.used.max(used);
    }
    Ok(entry)
}

fn entry(path: PathBuf, kind: Kind) -> Result<Entry> {
    let metadata = fs::metadata(&path).map_err(Error::io(&path))?;
    let used = metadata.modified().map_err(Error::io(&path))?;
    let bytes = match metadata.is_dir() {
        true => size(&path).map_err(Error::io(&path))?,
        false => metadata.len(),
    };
    Ok(Entry { path, kind, bytes, used })
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder))?,
    };
    let paths = entries.map(|entry| Ok(entry.map_err(Error::io(folder))?.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolve;
    use crate::run_folder::ClaimedFolder;

    #[test]
    fn what_a_run_uses_stays_and_the_rest_may_go() {
        let disk = tempfile::tempdir().unwrap();
        let cache = disk.path().join("cache");
        let tokens = cache.join(DATASETS);
        for name in ["tokens/used", "tokens/unused", "tokens/half.partial", "libtorch-2.11.0"] {
            fs::create_dir_all(cache.join(name)).unwrap();
            fs::write(cache.join(name).join("file"), [0; 1000]).unwrap();
        }
        let run = disk.path().join("run");
        ClaimedFolder::claim(&run, false).unwrap().begin(&resolve(&[]).unwrap()).unwrap();
        note_use(&tokens.join("used"), &run).unwrap();
        note_use(&tokens.join("unused"), &disk.path().join("gone")).unwrap();

        let all = entries(&cache).unwrap();
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|entry| entry.bytes == 1000));
        let may_go = |age: u64| -> Vec<String> {
            let of_age = |entry: &&Entry| entry.may_go(Duration::from_secs(age));
            let names = all.iter().filter(of_age).map(|entry| entry.path.file_name().unwrap());
            names.map(|name| name.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(may_go(0), ["half.partial", "unused"]);
        assert_eq!(may_go(3600), [""; 0], "all are fresh");
        let making = File::create(tokens.join("half.lock")).unwrap();
        making.lock().unwrap();
        let removed = all.iter().filter(|entry| entry.may_go(Duration::ZERO));
        let removed: Vec<bool> = removed.map(|entry| entry.remove().unwrap()).collect();
        assert_eq!(removed, [false, true], "half is just being made");
        assert!(!tokens.join("unused").exists() && !tokens.join("unused.runs").exists());
        assert_eq!(entries(&cache).unwrap().len(), 3);
        fs::remove_dir_all(&run).unwrap();
        assert!(
            entries(&cache)
                .unwrap()
                .iter()
                .any(|entry| { entry.path.ends_with("used") && entry.may_go(Duration::ZERO) })
        );
    }
}
