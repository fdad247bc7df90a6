//! Writing the tokens of many documents to one file after the other.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ShardWriter, TokenStore};
use crate::error::{Error, Result};

/// The path of file `number` of those called `name`.
pub(crate) fn shard_path(folder: &Path, name: &str, number: u32) -> PathBuf {
    folder.join(format!("{name}-{number:05}.tokens"))
}

/// How far a store is written: what is in finished files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    /// Finished files.
    pub(crate) shards: u32,
    /// Documents that have ended.
    pub(crate) documents: u64,
    /// Whether one has tokens and goes on.
    pub(crate) document_is_open: bool,
}

/// Writes files called `name` in a folder.
#[derive(Debug)]
pub(crate) struct StoreWriter {
    folder: PathBuf,
    name: &'static str,
    vocab_size: usize,
    fingerprint: [u8; 32],
    current: ShardWriter,
    written: Written,
}

impl StoreWriter {
    /// Begins, or goes on after what is `written`.
    pub(crate) fn create(
        folder: &Path,
        name: &'static str,
        vocab_size: usize,
        fingerprint: [u8; 32],
        written: Written,
    ) -> Result<Self> {
        let path = shard_path(folder, name, written.shards);
        let goes_on = written.document_is_open;
        let current = ShardWriter::begin(&path, vocab_size, fingerprint, goes_on)?;
        Ok(Self { folder: folder.to_owned(), name, vocab_size, fingerprint, current, written })
    }

    /// Appends tokens to the document that is open.
    pub(crate) fn append(&mut self, tokens: &[u32]) -> Result<()> {
        self.written.document_is_open |= !tokens.is_empty();
        self.current.append(tokens)
    }

    /// Ends the document that is open, unless it has no token.
    pub(crate) fn end_document(&mut self) {
        if std::mem::take(&mut self.written.document_is_open) {
            self.written.documents += 1;
            self.current.end_document();
        }
    }

    /// Documents that have ended.
    pub(crate) fn document_count(&self) -> u64 {
        self.written.documents
    }

    /// Tokens of the file that is being written.
    pub(crate) fn shard_tokens(&self) -> u64 {
        self.current.token_count()
    }

    /// Finishes the current file, unless it is empty, and begins the next.
    pub(crate) fn next_shard(&mut self) -> Result<Written> {
        if self.current.token_count() > 0 {
            let path = shard_path(&self.folder, self.name, self.written.shards + 1);
            let goes_on = self.written.document_is_open;
            let next = ShardWriter::begin(&path, self.vocab_size, self.fingerprint, goes_on)?;
            let mut finished = std::mem::replace(&mut self.current, next);
            if goes_on {
                finished.end_document();
            }
            finished.close()?;
            self.written.shards += 1;
        }
        Ok(self.written)
    }

    /// Finishes the last file, of which there is always one, and returns how many there are.
    pub(crate) fn finish(self) -> Result<u32> {
        let Self { folder, name, current, written, .. } = self;
        current.close()?;
        let count = written.shards + 1;
        // What an earlier attempt left.
        for number in count.. {
            let path = shard_path(&folder, name, number);
            if !path.exists() {
                break;
            }
            fs::remove_file(&path).map_err(Error::io("remove the unfinished", &path))?;
        }
        Ok(count)
    }

    /// The same, and opens what was written.
    pub(crate) fn into_store(self) -> Result<TokenStore> {
        let (folder, name) = (self.folder.clone(), self.name);
        let count = self.finish()?;
        let paths: Vec<PathBuf> =
            (0..count).map(|number| shard_path(&folder, name, number)).collect();
        TokenStore::open_all(&paths)
    }
}
