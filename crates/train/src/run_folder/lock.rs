//! One process a folder: a lock that the system releases however the process ends.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::names::MARKER;

/// What a person reads who looks into the marker.
const EXPLANATION: &str = "This folder is a run of bert4rs. A process that writes it locks this \
                           file.\n";

/// The lock on a run's folder, held as long as this lives.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Marks `folder` as a run's and locks it; `None` where another process has it locked.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where another process removed the folder meanwhile.
    pub(super) fn take(folder: &Path) -> io::Result<Option<Self>> {
        let path = folder.join(MARKER);
        loop {
            let mut file =
                File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                // Some network file systems have no locks; there the marker is all there is.
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever had it before may have removed or moved it before letting go.
            if is_at(&file, &path)? {
                file.write_all(EXPLANATION.as_bytes())?;
                return Ok(Some(Self { _file: file }));
            }
        }
    }

    /// Whether a process holds the lock on `folder`.
    pub(super) fn is_taken(folder: &Path) -> bool {
        let Ok(file) = File::open(folder.join(MARKER)) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }
}

/// Whether `path` still leads to `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
