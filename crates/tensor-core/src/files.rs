//! Files mapped into memory.

#![expect(unsafe_code, reason = "a mapped file can change under its reader")]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps the whole of `path` for reading.
///
/// For files that are written once, under another name, and then renamed: bert4rs changes no file
/// in place. Someone else who cuts the file short while it is mapped makes reads fault.
///
/// # Errors
/// A missing or unreadable file, and one that can't be mapped, such as a folder.
pub fn map_file(path: &Path) -> Result<Mmap> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the mapping is read-only and private to its owner, and no code of bert4rs writes to
    // a file that it has given its final name.
    unsafe { Mmap::map(&file) }.map_err(io)
}
