//! Which files a corpus consists of, and how to tell that one changed.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, FileType, Metadata};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::format::TextFormat;
use crate::error::{Error, Result};

/// A file's contents are known by this many samples of [`SAMPLE_BYTES`], evenly spread.
const SAMPLES: u64 = 8;
const SAMPLE_BYTES: u64 = 4 << 10;

/// One file of a corpus, as it was when the corpus was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusFile {
    /// Its absolute path, without links.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// When it last changed.
    pub modified: SystemTime,
    /// BLAKE3 of samples of its contents; of all of them, where they are few.
    pub samples: [u8; 32],
}

impl CorpusFile {
    /// The file at `path`, as it is now.
    pub(super) fn look_at(path: &Path) -> Result<Self> {
        let look = || -> std::io::Result<Self> {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            Ok(Self {
                path: path.canonicalize()?,
                bytes: metadata.len(),
                modified: metadata.modified()?,
                samples: hash_samples(&file, metadata.len())?,
            })
        };
        look().map_err(Error::io("read the corpus", path))
    }
}

fn hash_samples(file: &File, length: u64) -> std::io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut sample = [0; SAMPLE_BYTES as usize];
    let last = length.saturating_sub(SAMPLE_BYTES);
    for number in 0..SAMPLES {
        let mut at = number * last / (SAMPLES - 1);
        // Reads may be short, and a file may end before its length says so.
        let end = (at + SAMPLE_BYTES).min(length);
        while at < end {
            let read = file.read_at(&mut sample[..(end - at) as usize], at)?;
            if read == 0 {
                break;
            }
            hasher.update(&sample[..read]);
            at += read as u64;
        }
    }
    Ok(*hasher.finalize().as_bytes())
}

/// What in the folders of a corpus was not taken: why, how often, and the first of each.
#[derive(Debug, Clone, Default)]
pub(super) struct LeftOut(BTreeMap<&'static str, (usize, PathBuf)>);

impl LeftOut {
    fn add(&mut self, why: &'static str, path: PathBuf) {
        self.0.entry(why).or_insert((0, path)).0 += 1;
    }

    /// A line for each reason.
    pub(super) fn notes(&self) -> Vec<String> {
        let note = |(why, (count, first)): (&&str, &(usize, PathBuf))| {
            let and_others = if *count > 1 { ", the first of them" } else { "" };
            format!("left out of the corpus: {count} {why} ({}{and_others})", first.display())
        };
        self.0.iter().map(note).collect()
    }
}

/// The files that `paths` mean, each once, and what was left out.
pub(super) fn find(paths: &[PathBuf]) -> Result<(Vec<CorpusFile>, LeftOut)> {
    let (mut files, mut left_out) = (Vec::new(), LeftOut::default());
    for path in paths {
        let metadata = fs::metadata(path).map_err(Error::io("read the corpus", path))?;
        if metadata.is_dir() {
            let before = files.len();
            collect_folder(path, &mut files, &mut left_out)?;
            if files.len() == before {
                let notes = left_out.notes();
                let notes = notes.iter().map(|note| format!("; {note}"));
                let reason =
                    "this folder holds no text file (.txt, .md, .jsonl, .csv, .parquet, ...), at \
                     any depth"
                        .to_owned();
                return Err(Error::corpus(path, reason + &notes.collect::<String>()));
            }
        } else if let Some(what) = special(&metadata) {
            let reason = format!("is {what}, expected a file or a folder");
            return Err(Error::corpus(path, reason));
        } else {
            files.push(CorpusFile::look_at(path)?);
        }
    }
    let mut seen = HashSet::new();
    if let Some(twice) = files.iter().find(|file| !seen.insert(&file.path)) {
        return Err(Error::corpus(&twice.path, "is part of the corpus twice; name it once"));
    }
    Ok((files, left_out))
}

/// What it is, if neither a file nor a folder.
fn special(metadata: &Metadata) -> Option<&'static str> {
    let kind: FileType = metadata.file_type();
    match kind {
        _ if kind.is_file() || kind.is_dir() => None,
        _ if kind.is_fifo() => Some("a pipe"),
        _ if kind.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

/// Appends the text files below `folder`, sorted.
fn collect_folder(
    folder: &Path,
    files: &mut Vec<CorpusFile>,
    left_out: &mut LeftOut,
) -> Result<()> {
    let io = || Error::io("list the corpus folder", folder);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(io())? {
        let entry = entry.map_err(io())?;
        entries.push((entry.path(), entry.file_type().map_err(io())?));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (path, kind) in entries {
        match reason_to_leave_out(&path, kind) {
            Some(why) => left_out.add(why, path),
            None if kind.is_dir() => collect_folder(&path, files, left_out)?,
            None => files.push(CorpusFile::look_at(&path)?),
        }
    }
    Ok(())
}

/// Why an entry of a folder is no part of the corpus, in the plural.
fn reason_to_leave_out(path: &Path, kind: FileType) -> Option<&'static str> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    if name.starts_with(b".") {
        return Some("hidden files and folders");
    }
    if kind.is_dir() {
        return None;
    }
    let Ok(target) = fs::metadata(path) else {
        return Some("links to nothing");
    };
    if target.is_dir() {
        return Some("links to folders");
    }
    if special(&target).is_some() {
        return Some("pipes, sockets and devices");
    }
    TextFormat::of_name(path).is_none().then_some("files whose ending is none of text")
}
