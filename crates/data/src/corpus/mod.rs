//! Text on disk: files of documents, read in pieces of bounded size.

mod find;
mod format;
mod fragment;
mod lines;
mod parquet;
mod parquet_rows;
mod paths;
mod records;
mod rows;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use find::CorpusFile;
use find::{LeftOut, find};
pub(crate) use fragment::Fragment;
pub use rows::{TableReader, TableRow};
pub use stream::keep_stream;

/// Text is handed out in pieces of about this size, the unit of parallel work.
const CHUNK_BYTES: usize = 1 << 20;

/// Where the documents of plain text begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DocumentBreak {
    /// After blank lines.
    #[default]
    BlankLine,
    /// At each line.
    Line,
    /// At each file.
    File,
}

/// How files become documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusReading {
    /// The field or column that holds the text, of JSON lines and tables.
    pub text_field: String,
    /// Where the documents of plain text begin.
    pub document_break: DocumentBreak,
}

impl Default for CorpusReading {
    fn default() -> Self {
        Self { text_field: "text".into(), document_break: DocumentBreak::default() }
    }
}

/// Text files in the order in which they are read.
#[derive(Debug, Clone)]
pub struct Corpus {
    files: Vec<CorpusFile>,
    left_out: LeftOut,
    reading: CorpusReading,
    /// Numbers of documents that are passed over, ascending.
    dropped: Arc<[u64]>,
}

/// The documents of a file, in fragments.
trait Documents: Send {
    /// The next fragment, or `None` at the end.
    ///
    /// # Errors
    /// A file that can't be read; bytes that are no text, or not of the file's format.
    fn next_fragment(&mut self) -> Result<Option<Fragment>>;
}

impl Corpus {
    /// Finds the files: each path is a file, or a folder of which all files with an ending of text
    /// are taken, at any depth, sorted by path, whatever the case of the ending. Hidden files and
    /// folders, what is no file, and links that lead to nothing or to folders are left out, and
    /// [noted](Self::notes). A path that does not exist and holds `*`, `?` or `[` is a pattern, of
    /// which all matches are taken, sorted; `@FILE` stands for the paths and patterns in that file,
    /// one a line, from its own folder on, where blank lines and those that begin with `#` count
    /// nothing.
    ///
    /// | ending | is read as |
    /// | --- | --- |
    /// | `.txt`, `.text` | JSON lines or WikiText by content, else plain |
    /// | none of these, of a file that is named itself | the same, Parquet or a table by content |
    /// | `.md`, `.markdown` | Markdown: a document a heading |
    /// | `.tokens`, `.raw` of `wiki.…` | WikiText: a document an article |
    /// | `.jsonl`, `.ndjson` | JSON lines: a document an object |
    /// | `.csv`, `.tsv` | a table with a row of names: a document a row |
    /// | `.parquet` | the same by columns |
    ///
    /// Each may be compressed by gzip, zstd, xz or bzip2, in a folder with `.gz`, `.zst`, `.xz` or
    /// `.bz2` behind its ending.
    ///
    /// # Errors
    /// No paths; a path that is missing, unreadable, neither file nor folder, or named twice; a
    /// folder without text files; no file with text. The text itself is checked when it is read.
    pub fn open(paths: &[PathBuf], reading: CorpusReading) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::setting("the corpus", "empty", "one or more files or folders"));
        }
        let (files, left_out) = find(&paths::expand(paths)?)?;
        if files.iter().all(|file| file.bytes == 0) {
            return Err(Error::corpus(&files[0].path, "is empty; expected lines of text"));
        }
        Ok(Self { files, left_out, reading, dropped: Arc::from([]) })
    }

    /// The files, in the order in which they are read.
    pub fn files(&self) -> &[CorpusFile] {
        &self.files
    }

    /// How they become documents.
    pub fn reading(&self) -> &CorpusReading {
        &self.reading
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

    /// The same without the documents of these numbers, which ascend.
    pub(crate) fn without(&self, dropped: &[u64]) -> Self {
        Self { dropped: dropped.into(), ..self.clone() }
    }

    /// The text, in chunks.
    pub(crate) fn chunks(&self) -> Chunks<'_> {
        Chunks {
            corpus: self,
            next_file: 0,
            current: None,
            failed: false,
            next_document: 0,
            next_dropped: 0,
            drops: false,
        }
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
    corpus: &'a Corpus,
    next_file: usize,
    current: Option<OpenFile>,
    failed: bool,
    /// The number of the next document, and the next place in the list of those passed over.
    next_document: u64,
    next_dropped: usize,
    /// Whether the document that is open is passed over.
    drops: bool,
}

struct OpenFile {
    documents: Box<dyn Documents>,
    /// Bytes of the file that were read.
    read: Arc<AtomicU64>,
    /// Those of them that are in a chunk.
    counted: u64,
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
    /// Whether a fragment is of a document that is passed over.
    fn is_dropped(&mut self, fragment: &Fragment) -> bool {
        if fragment.begins_document {
            let dropped = self.corpus.dropped.get(self.next_dropped);
            self.drops = dropped == Some(&self.next_document);
            self.next_dropped += usize::from(self.drops);
            self.next_document += 1;
        }
        self.drops
    }

    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut chunk = Chunk { fragments: Vec::new(), bytes: 0 };
        let mut text = 0;
        while text < CHUNK_BYTES {
            let Some(file) = &mut self.current else {
                let Some(file) = self.corpus.files.get(self.next_file) else { break };
                let (documents, read) = format::open(&file.path, &self.corpus.reading)?;
                self.current = Some(OpenFile { documents, read, counted: 0 });
                self.next_file += 1;
                continue;
            };
            let fragment = file.documents.next_fragment()?;
            let read = file.read.load(Ordering::Relaxed);
            chunk.bytes += read - std::mem::replace(&mut file.counted, read);
            match fragment {
                Some(fragment) => {
                    text += fragment.text.len();
                    if !self.is_dropped(&fragment) {
                        chunk.fragments.push(fragment);
                    }
                }
                None => self.current = None,
            }
        }
        Ok((text > 0 || chunk.bytes > 0).then_some(chunk))
    }
}
