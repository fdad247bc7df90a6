//! Plain text on disk: files of documents, read in pieces that never split a document.
//!
//! A document is a run of lines; blank lines separate documents.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};

/// Text is read in pieces of about this size, the unit of parallel work.
const CHUNK_BYTES: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Text files in the order in which they are read.
#[derive(Debug, Clone)]
pub struct Corpus {
    files: Vec<TextFile>,
}

/// One file of a corpus, as it was when the corpus was opened.
#[derive(Debug, Clone)]
pub struct TextFile {
    /// Its absolute path, without links.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// When it last changed.
    pub modified: SystemTime,
}

impl Corpus {
    /// Finds the files: each path is a file, or a folder of which all `.txt` files at any depth
    /// are taken, sorted by path.
    ///
    /// # Errors
    /// No paths; a path that is missing, unreadable, empty or named twice; a folder without
    /// `.txt` files. The text itself is checked when it is read.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::setting("the corpus", "empty", "one or more files or folders"));
        }
        let mut files = Vec::new();
        for path in paths {
            let metadata = fs::metadata(path).map_err(Error::io("read the corpus", path))?;
            if metadata.is_dir() {
                let before = files.len();
                collect_folder(path, &mut files)?;
                if files.len() == before {
                    return Err(bad(path, "this folder holds no .txt file, at any depth"));
                }
            } else {
                files.push(text_file(path)?);
            }
        }
        refuse_duplicates(&files)?;
        if files.iter().all(|file| file.bytes == 0) {
            return Err(bad(&files[0].path, "is empty; expected lines of text"));
        }
        Ok(Self { files })
    }

    /// The files, in the order in which they are read.
    pub fn files(&self) -> &[TextFile] {
        &self.files
    }

    /// Length of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The text, in pieces that end where documents end.
    pub(crate) fn chunks(&self) -> Chunks<'_> {
        Chunks { files: self.files.iter(), current: None }
    }

    /// The error for a corpus in which no document was found.
    pub(crate) fn no_documents(&self) -> Error {
        let path = &self.files[0].path;
        bad(path, "no file of this corpus holds a document; expected lines of text")
    }

    /// The error for a corpus that can't be split in two.
    pub(crate) fn only_one_document(&self) -> Error {
        let reason = "the corpus holds only one document, and one must be held out; separate \
                      documents by blank lines";
        bad(&self.files[0].path, reason)
    }
}

fn bad(path: &Path, reason: impl Into<String>) -> Error {
    Error::Corpus { path: path.to_owned(), reason: reason.into() }
}

fn text_file(path: &Path) -> Result<TextFile> {
    let read = || -> std::io::Result<TextFile> {
        let metadata = fs::metadata(path)?;
        let modified = metadata.modified()?;
        Ok(TextFile { path: path.canonicalize()?, bytes: metadata.len(), modified })
    };
    read().map_err(Error::io("read the corpus", path))
}

/// Appends the `.txt` files below `folder`, sorted. Links to folders are not followed.
fn collect_folder(folder: &Path, files: &mut Vec<TextFile>) -> Result<()> {
    let io = || Error::io("list the corpus folder", folder);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(io())? {
        let entry = entry.map_err(io())?;
        entries.push((entry.path(), entry.file_type().map_err(io())?));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (path, kind) in entries {
        if kind.is_dir() {
            collect_folder(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "txt") && path.is_file() {
            files.push(text_file(&path)?);
        }
    }
    Ok(())
}

fn refuse_duplicates(files: &[TextFile]) -> Result<()> {
    let mut seen = HashMap::new();
    for file in files {
        if seen.insert(&file.path, ()).is_some() {
            return Err(bad(&file.path, "is part of the corpus twice; name it once"));
        }
    }
    Ok(())
}

/// A piece of text, of whole documents.
pub(crate) struct Chunk {
    /// Lines of text.
    pub(crate) text: String,
    /// How many bytes of the files it covers.
    pub(crate) bytes: u64,
}

/// Iterator over a corpus's [`Chunk`]s.
pub(crate) struct Chunks<'a> {
    files: std::slice::Iter<'a, TextFile>,
    current: Option<OpenFile<'a>>,
}

struct OpenFile<'a> {
    path: &'a Path,
    file: File,
    /// Where in the file `unread` begins.
    offset: u64,
    /// Read from the file and not yet given away.
    unread: Vec<u8>,
    at_end: bool,
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(file) = &mut self.current {
                match file.next_chunk() {
                    Ok(None) => self.current = None,
                    Ok(Some(chunk)) => return Some(Ok(chunk)),
                    Err(error) => return Some(Err(error)),
                }
            }
            let path = &self.files.next()?.path;
            match File::open(path).map_err(Error::io("read the corpus", path)) {
                Ok(file) => self.current = Some(OpenFile::new(path, file)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<'a> OpenFile<'a> {
    fn new(path: &'a Path, file: File) -> Self {
        Self { path, file, offset: 0, unread: Vec::new(), at_end: false }
    }

    /// The next whole documents, or `None` at the end of the file.
    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        loop {
            if self.at_end {
                let rest = std::mem::take(&mut self.unread);
                return if rest.is_empty() { Ok(None) } else { self.chunk(rest).map(Some) };
            }
            // Reading as much again as there is keeps the search linear in a long document.
            let want = self.unread.len().max(CHUNK_BYTES);
            let read = self.file.by_ref().take(want as u64).read_to_end(&mut self.unread);
            self.at_end = read.map_err(Error::io("read the corpus", self.path))? < want;
            if self.at_end {
                continue;
            }
            if let Some(end) = last_document_end(&self.unread) {
                let rest = self.unread.split_off(end);
                let whole = std::mem::replace(&mut self.unread, rest);
                return self.chunk(whole).map(Some);
            }
        }
    }

    fn chunk(&mut self, bytes: Vec<u8>) -> Result<Chunk> {
        let (length, offset) = (bytes.len() as u64, self.offset);
        if let Some(index) = bytes.iter().position(|&byte| byte == 0) {
            let at = offset + index as u64;
            let reason = format!("byte {at} is NUL, so this is no text; expected UTF-8 text");
            return Err(bad(self.path, reason));
        }
        let mut text = String::from_utf8(bytes).map_err(|error| {
            let at = offset + error.utf8_error().valid_up_to() as u64;
            let reason = format!(
                "byte {at} is not UTF-8; convert the file, as with `iconv -f latin1 -t utf-8`"
            );
            bad(self.path, reason)
        })?;
        if offset == 0 && text.as_bytes().starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len());
        }
        self.offset += length;
        Ok(Chunk { text, bytes: length })
    }
}

/// Where the last document that is surely whole ends: just after the last blank line.
fn last_document_end(bytes: &[u8]) -> Option<usize> {
    let mut line_end = bytes.iter().rposition(|&byte| byte == b'\n')?;
    loop {
        let line_start = bytes[..line_end].iter().rposition(|&byte| byte == b'\n')? + 1;
        if bytes[line_start..line_end].iter().all(u8::is_ascii_whitespace) {
            return Some(line_end + 1);
        }
        line_end = line_start - 1;
    }
}

/// The documents in `text`, each with the line ends inside it.
pub(crate) fn documents(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = line_starts(rest).find(|&(_, line)| !line.trim().is_empty())?.0;
        rest = &rest[start..];
        let end = line_starts(rest).find(|&(_, line)| line.trim().is_empty());
        let (document, after) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
        rest = after;
        Some(document)
    })
}

fn line_starts(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = at;
        at += line.len();
        (start, line)
    })
}

/// A document's lines joined by single spaces.
pub(crate) fn joined(document: &str) -> String {
    let lines: Vec<&str> = document.lines().map(str::trim).collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_documents(text: &str, expected: &[&str]) {
        let found: Vec<String> = documents(text).map(joined).collect();
        assert_eq!(found, expected, "documents of {text:?}");
    }

    #[test]
    fn blank_lines_separate_documents() {
        check_documents("", &[]);
        check_documents("\n \n\t\r\n", &[]);
        check_documents("one", &["one"]);
        check_documents("one\ntwo\n", &["one two"]);
        check_documents("\n\none\n\ntwo\n\n\n", &["one", "two"]);
        check_documents("one\r\nmore\r\n\r\ntwo", &["one more", "two"]);
        check_documents("one\n \u{a0}\ntwo", &["one", "two"]);
    }

    #[test]
    fn chunks_end_after_blank_lines() {
        assert_eq!(last_document_end(b"no line end"), None);
        assert_eq!(last_document_end(b"one\ntwo\n"), None);
        assert_eq!(last_document_end(b"one\n\ntwo\n"), Some(5));
        assert_eq!(last_document_end(b"one\n \r\ntwo\n\nthree"), Some(12));
    }
}
