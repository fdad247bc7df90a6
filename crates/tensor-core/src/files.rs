//! Files that are read: regular ones, mapped into memory or small.

#![expect(unsafe_code, reason = "a mapped file can change under its reader")]

use std::fs::{self, File};
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// What a file begins with that stands for another, which Git LFS has not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Refuses what is no regular file: folders, and pipes and devices, which may never end.
///
/// # Errors
/// Those, and a path where nothing is.
pub fn check_regular(path: &Path) -> Result<()> {
    let metadata =
        fs::metadata(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let what = match (metadata.is_file(), metadata.is_dir()) {
        (true, _) => return Ok(()),
        (false, true) => "a folder",
        (false, false) => "a pipe or a device",
    };
    let reason = format!("is {what}; expected a regular file");
    Err(Error::File { path: path.to_owned(), reason })
}

/// Refuses the contents of `path` where they are Git LFS's pointer to the file itself.
///
/// # Errors
/// Such a pointer.
pub fn check_fetched(path: &Path, contents: &[u8]) -> Result<()> {
    if !contents.starts_with(LFS_POINTER) {
        return Ok(());
    }
    let reason = "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`".into();
    Err(Error::File { path: path.to_owned(), reason })
}

/// Maps the whole of `path` for reading.
///
/// For files that are written once, under another name, and then renamed: bert4rs changes no file
/// in place. Someone else who cuts the file short while it is mapped makes reads fault.
///
/// # Errors
/// A missing or unreadable file, and what is no regular file.
pub fn map_file(path: &Path) -> Result<Mmap> {
    check_regular(path)?;
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the mapping is read-only and private to its owner, and no code of bert4rs writes to
    // a file that it has given its final name.
    unsafe { Mmap::map(&file) }.map_err(io)
}
