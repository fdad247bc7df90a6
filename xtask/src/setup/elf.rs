//! Which libraries a library needs: the `NEEDED` entries of a 64-bit little-endian ELF file.

use std::fs::File;
use std::path::Path;

use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};
use object::{LittleEndian, ReadCache};

use crate::error::{Error, Result};

/// The names that the library's dynamic section asks the loader for.
pub(crate) fn needed(path: &Path) -> Result<Vec<String>> {
    let file = File::open(path).map_err(Error::at(path))?;
    // Reads only what is asked for, so half a gigabyte costs nothing.
    let file = ReadCache::new(file);
    read_needed(&file).map_err(|source| Error::Malformed {
        path: path.to_path_buf(),
        reason: format!("it is no whole 64-bit library: {source}"),
    })
}

fn read_needed(file: &ReadCache<File>) -> object::read::Result<Vec<String>> {
    let header = FileHeader64::<LittleEndian>::parse(file)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, file)?;
    let Some((entries, strings)) = sections.dynamic(endian, file)? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, file, strings)?;
    let names = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
    names
        .map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_needs_the_c_library() {
        let program = std::env::current_exe().unwrap();
        let names = needed(&program).unwrap();
        assert!(names.iter().any(|name| name.starts_with("libc.so")), "{names:?}");
    }

    #[test]
    fn a_truncated_library_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lib.so");
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for size in [0, 10, 63, 100] {
            std::fs::write(&path, &program[..size]).unwrap();
            assert!(needed(&path).is_err(), "{size} bytes");
        }
    }
}
