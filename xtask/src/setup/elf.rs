//! Which libraries a library needs: the `NEEDED` entries of a 64-bit little-endian ELF file.
//!
//! Only the headers and the dynamic section are read, so half a gigabyte costs nothing. Layout:
//! System V ABI, chapters 4 and 5.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// Bytes of the file header, of one program header and of one dynamic entry.
const FILE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const DYNAMIC_ENTRY: usize = 16;

/// More than any real file has; guards against a damaged count.
const MOST_BYTES: u64 = 1 << 20;

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// The names that the library's dynamic section asks the loader for.
pub(crate) fn needed(path: &Path) -> Result<Vec<String>> {
    let file = File::open(path).map_err(Error::at(path))?;
    read_needed(&file).map_err(|source| Error::Malformed {
        path: path.to_path_buf(),
        reason: format!("it is no whole 64-bit library: {source}"),
    })
}

fn read_needed(file: &File) -> io::Result<Vec<String>> {
    let segments = segments(file)?;
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
        return Ok(Vec::new());
    };
    let section = read(file, dynamic.offset, dynamic.size)?;
    let entries =
        || section.chunks_exact(DYNAMIC_ENTRY).map(|entry| (u64_at(entry, 0), u64_at(entry, 8)));
    let Some((_, strings)) = entries().find(|(tag, _)| *tag == DT_STRTAB) else {
        return Ok(Vec::new());
    };
    // The table's place is given as it will be in memory.
    let strings = segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find(|load| (load.address..load.address.saturating_add(load.size)).contains(&strings))
        .map(|load| strings - load.address + load.offset)
        .ok_or_else(|| damaged("its string table lies outside"))?;
    let names = entries().filter(|(tag, _)| *tag == DT_NEEDED);
    names.map(|(_, place)| string(file, strings.saturating_add(place))).collect()
}

fn segments(file: &File) -> io::Result<Vec<Segment>> {
    let header = read(file, 0, FILE_HEADER as u64)?;
    if header[..6] != [0x7f, b'E', b'L', b'F', 2, 1] {
        return Err(damaged("it does not begin as one"));
    }
    let (offset, count) = (u64_at(&header, 32), u16_at(&header, 56));
    let table = read(file, offset, u64::from(count) * PROGRAM_HEADER as u64)?;
    let segment = |entry: &[u8]| Segment {
        kind: u32_at(entry, 0),
        offset: u64_at(entry, 8),
        address: u64_at(entry, 16),
        size: u64_at(entry, 32),
    };
    Ok(table.chunks_exact(PROGRAM_HEADER).map(segment).collect())
}

fn read(file: &File, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    if size > MOST_BYTES {
        return Err(damaged("its tables are too long"));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn string(file: &File, offset: u64) -> io::Result<String> {
    let mut bytes = [0; 256];
    let count = file.read_at(&mut bytes, offset)?;
    let end = bytes[..count].iter().position(|byte| *byte == 0);
    let end = end.ok_or_else(|| damaged("a name does not end"))?;
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Numbers at places that the callers have read in full.
fn u64_at(bytes: &[u8], place: usize) -> u64 {
    (0..8).map(|i| u64::from(bytes[place + i]) << (8 * i)).sum()
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    (0..4).map(|i| u32::from(bytes[place + i]) << (8 * i)).sum()
}

fn u16_at(bytes: &[u8], place: usize) -> u16 {
    u16::from(bytes[place]) | u16::from(bytes[place + 1]) << 8
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
