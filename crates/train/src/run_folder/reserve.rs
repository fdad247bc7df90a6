//! Disk space kept for what a run must be able to write in the end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::RunFolder;
use super::names::RESERVE;
use crate::error::{Error, Result, is_storage_full};

impl RunFolder {
    /// Keeps `bytes` of the disk for the model, so that a full disk shows before training and not
    /// after it. Where the file system can't, nothing is kept.
    ///
    /// # Errors
    /// Too little space: how much is needed, and how much there is.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        if self.available() < bytes {
            return Err(self.disk_full(bytes, None));
        }
        let path = self.path.join(RESERVE);
        let file = File::create(&path).map_err(Error::io(&path))?;
        let outcome = match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            outcome => outcome.map_err(io::Error::from),
        };
        let Err(error) = outcome else { return Ok(()) };
        self.release();
        if !is_storage_full(&error) {
            return Err(Error::io(&path)(error));
        }
        Err(self.disk_full(bytes, None))
    }

    /// Lets `export` write the trained model, of `bytes`, to the folder; where the disk is full,
    /// to the first other place that has room.
    ///
    /// # Errors
    /// A full disk, also where there was another place: it says which. What else `export` says.
    pub fn export(&mut self, bytes: u64, export: impl Fn(&Path) -> Result<()>) -> Result<()> {
        self.release();
        match export(&self.path) {
            Err(error) if error.is_full_disk() => {}
            outcome => return outcome,
        }
        let rescued = other_places().into_iter().find(|place| {
            fs::create_dir(place).is_ok()
                && export(place).inspect_err(|_| drop(fs::remove_dir_all(place))).is_ok()
        });
        Err(self.disk_full(bytes, rescued))
    }

    fn disk_full(&self, needed: u64, rescued: Option<PathBuf>) -> Error {
        Error::DiskFull { path: self.path.clone(), needed, available: self.available(), rescued }
    }

    /// Free bytes of the disk; as many as there can be where nothing tells.
    fn available(&self) -> u64 {
        statvfs(&self.path).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Gives the kept space back, for the model to be written to.
    pub fn release(&mut self) {
        // It may never have been kept; and what is not given back is missed by the model's write.
        let _ = fs::remove_file(self.path.join(RESERVE));
    }
}

/// Where a model may go that its own disk has no room for: new folders on other disks, mostly.
fn other_places() -> Vec<PathBuf> {
    let name = format!("bert4rs-rescued-{}", std::process::id());
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let folders = [Some(std::env::temp_dir()), home, std::env::current_dir().ok()];
    folders.into_iter().flatten().map(|folder| folder.join(&name)).collect()
}
