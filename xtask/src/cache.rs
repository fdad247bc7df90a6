//! The user's cache folder: what is fetched once and shared by all checkouts.
//!
//! Nothing in it is trusted because it exists. What belongs together is listed with its sizes in
//! a manifest that is written last, by renaming; whoever finds no manifest, or one that does not
//! hold, makes everything again. One lock file keeps two commands from doing so at once.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::console;
use crate::error::{Error, Result};

/// The cache folder of bert4rs.
pub(crate) struct Cache {
    root: PathBuf,
}

/// The sole right to write to the cache, until dropped or the process ends.
pub(crate) struct Lock {
    _file: File,
}

impl Cache {
    /// `$XDG_CACHE_HOME/bert4rs`, else `~/.cache/bert4rs`.
    pub(crate) fn of_user() -> Result<Self> {
        let named = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        let in_home = || {
            let home = env::var_os("HOME").filter(|home| !home.is_empty())?;
            Some(PathBuf::from(home).join(".cache"))
        };
        let base = named.or_else(in_home).ok_or(Error::NoCacheFolder)?;
        Ok(Cache { root: base.join("bert4rs") })
    }

    /// A file or folder in the cache.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Waits for the sole right to write, and removes what interrupted commands left.
    pub(crate) fn lock(&self) -> Result<Lock> {
        fs::create_dir_all(&self.root).map_err(Error::at(&self.root))?;
        let path = self.path("lock");
        let file = File::create(&path).map_err(Error::at(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                console::note(format_args!(
                    "waiting for another `cargo xtask` that fetches ({} is locked)",
                    path.display()
                ));
                file.lock().map_err(Error::at(&path))?;
            }
            Err(TryLockError::Error(source)) => return Err(Error::Io { path, source }),
        }
        self.remove_leftovers();
        Ok(Lock { _file: file })
    }

    /// The folder for what is not finished; on the same disk, so that renaming finishes it.
    /// Only the holder of the lock may use it.
    pub(crate) fn unfinished(&self, _lock: &Lock) -> Result<PathBuf> {
        let path = self.path("unfinished");
        fs::create_dir_all(&path).map_err(Error::at(&path))?;
        Ok(path)
    }

    /// Removes unfinished folders. Files stay: they are whole archives, which save a download.
    fn remove_leftovers(&self) {
        let Ok(entries) = fs::read_dir(self.path("unfinished")) else { return };
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            // A client that outlived its xtask may still write there; the next command succeeds.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The list of files that belong together, and what they were made from.
pub(crate) struct Manifest {
    pin: String,
    files: Vec<(u64, PathBuf)>,
}

impl Manifest {
    /// An empty list for what is made from `pin`: a hash, or a version and a hash.
    pub(crate) fn new(pin: &str) -> Self {
        Manifest { pin: pin.to_owned(), files: Vec::new() }
    }

    /// Adds a file, its path relative to the folder that [`Manifest::holds`] is asked about.
    pub(crate) fn add(&mut self, path: PathBuf, size: u64) {
        self.files.push((size, path));
    }

    /// The files of the list.
    pub(crate) fn files(&self) -> &[(u64, PathBuf)] {
        &self.files
    }

    /// Whether the manifest at `path` was made from `pin`, and its files are there in full.
    pub(crate) fn holds(path: &Path, pin: &str, folder: &Path) -> bool {
        let Ok(text) = fs::read_to_string(path) else { return false };
        let mut lines = text.lines();
        lines.next() == Some(pin)
            && lines.next_back() == Some("end")
            && lines.all(|line| {
                let Some((size, name)) = line.split_once(' ') else { return false };
                let found = fs::metadata(folder.join(name)).map(|found| found.len());
                found.is_ok_and(|found| Ok(found) == size.parse())
            })
    }

    /// Writes the manifest; its existence is the promise that the files are whole. One that
    /// says the same already keeps its time stamp, which builds may watch.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = format!("{}\n", self.pin);
        for (size, name) in &self.files {
            text += &format!("{size} {}\n", name.display());
        }
        text += "end\n";
        match fs::read_to_string(path) {
            Ok(found) if found == text => Ok(()),
            _ => replace_file(path, text.as_bytes()),
        }
    }
}

/// Writes a file so that it is never seen half written, not even after a loss of power.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::at(folder))?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let write = || {
        let mut file = File::create(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(Error::at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_holds_only_for_its_pin_and_whole_files() {
        let folder = tempfile::tempdir().unwrap();
        let listed = folder.path().join("data/text");
        replace_file(&listed, b"12345").unwrap();
        let path = folder.path().join("manifest");
        assert!(!Manifest::holds(&path, "pin", folder.path()), "there is none yet");

        let mut manifest = Manifest::new("pin");
        manifest.add(PathBuf::from("data/text"), 5);
        manifest.write(&path).unwrap();
        assert!(Manifest::holds(&path, "pin", folder.path()));
        assert!(!Manifest::holds(&path, "other pin", folder.path()));

        fs::write(&listed, b"1234").unwrap();
        assert!(!Manifest::holds(&path, "pin", folder.path()), "a truncated file");
        fs::remove_file(&listed).unwrap();
        assert!(!Manifest::holds(&path, "pin", folder.path()), "a missing file");
    }

    #[test]
    fn a_truncated_manifest_does_not_hold() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest");
        fs::write(&path, "pin\n").unwrap();
        assert!(!Manifest::holds(&path, "pin", folder.path()));
    }
}
