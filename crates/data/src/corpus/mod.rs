//! Text on disk: files of documents, read in pieces of bounded size.

mod find;
mod fragment;
mod plain_text;

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
pub use find::CorpusFile;
use find::{LeftOut, find};
pub(crate) use fragment::Fragment;
use plain_text::PlainText;

/// Text is handed out in pieces of about this size, the unit of parallel work.
const CHUNK_BYTES: usize = 1 << 20;

/// Text files in the order in which they are read.
#[derive(Debug, Clone)]
pub struct Corpus {
    files: Vec<CorpusFile>,
    left_out: LeftOut,
}

impl Corpus {
    /// Finds the files: each path is a file, or a folder of which all `.txt` files at any depth
    /// are taken, sorted by path, whatever the case of the ending. Hidden files and folders, what
    /// is no file, and links that lead to nothing or to folders are left out, and
    /// [noted](Self::notes).
    ///
    /// # Errors
    /// No paths; a path that is missing, unreadable, neither file nor folder, or named twice; a
    /// folder without `.txt` files; no file with text. The text itself is checked when it is read.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::setting("the corpus", "empty", "one or more files or folders"));
        }
        let (files, left_out) = find(paths)?;
        if files.iter().all(|file| file.bytes == 0) {
            return Err(Error::corpus(&files[0].path, "is empty; expected lines of text"));
        }
        Ok(Self { files, left_out })
    }

    /// The files, in the order in which they are read.
    pub fn files(&self) -> &[CorpusFile] {
        &self.files
    }

    /// Length of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// What a user should know of it: what in its folders was left out, and why.
    pub fn notes(&self) -> Vec<String> {
        self.left_out.notes()
    }

    /// Refuses a corpus of which a file is not what it was when the corpus was opened.
    ///
    /// # Errors
    /// A file that changed, or can't be read any more.
    pub fn check_unchanged(&self) -> Result<()> {
        for file in &self.files {
            if CorpusFile::look_at(&file.path)? != *file {
                let reason = "changed while it was read; start again once nothing writes to it";
                return Err(Error::corpus(&file.path, reason));
            }
        }
        Ok(())
    }

    /// The text, in chunks.
    pub(crate) fn chunks(&self) -> Chunks<'_> {
        Chunks { files: self.files.iter(), current: None, failed: false }
    }

    /// The error for a corpus of which nothing can be held out.
    pub(crate) fn too_short_to_hold_out(&self) -> Error {
        let reason = "the corpus is a single token, of which none can be held out; give more text, \
                      or set data.held_out = 0";
        Error::corpus(&self.files[0].path, reason)
    }

    /// The error for a corpus in which no document was found.
    pub(crate) fn no_documents(&self) -> Error {
        let path = &self.files[0].path;
        Error::corpus(path, "no file of this corpus holds a document; expected lines of text")
    }
}

/// A piece of a corpus.
pub(crate) struct Chunk {
    /// Documents and parts of documents, in order.
    pub(crate) fragments: Vec<Fragment>,
    /// How many bytes of the files it covers.
    pub(crate) bytes: u64,
}

/// Iterator over a corpus's [`Chunk`]s.
pub(crate) struct Chunks<'a> {
    files: std::slice::Iter<'a, CorpusFile>,
    current: Option<PlainText<File>>,
    failed: bool,
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let chunk = self.next_chunk();
        self.failed = chunk.is_err();
        chunk.transpose()
    }
}

impl Chunks<'_> {
    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut chunk = Chunk { fragments: Vec::new(), bytes: 0 };
        let mut text = 0;
        while text < CHUNK_BYTES {
            let Some(reader) = &mut self.current else {
                let Some(file) = self.files.next() else { break };
                self.current = Some(open(&file.path)?);
                continue;
            };
            let before = reader.offset();
            let fragment = reader.next_fragment()?;
            chunk.bytes += reader.offset() - before;
            match fragment {
                Some(fragment) => {
                    text += fragment.text.len();
                    chunk.fragments.push(fragment);
                }
                None => self.current = None,
            }
        }
        Ok((!chunk.fragments.is_empty() || chunk.bytes > 0).then_some(chunk))
    }
}

fn open(path: &Path) -> Result<PlainText<File>> {
    let file = File::open(path).map_err(Error::io("read the corpus", path))?;
    Ok(PlainText::new(file, path))
}
