//! Writing token files.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::TokenStore;
use super::header::{HEADER_BYTES, Header};
use crate::error::{Error, Result};

/// Writes a token file, document by document. The file has its name only once it is whole.
#[derive(Debug)]
pub struct ShardWriter {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    contents: blake3::Hasher,
    header: Header,
    offsets: Vec<u64>,
}

impl ShardWriter {
    /// Begins the file `path` for tokens below `vocab_size`.
    ///
    /// # Errors
    /// A place that can't be written.
    pub fn create(path: &Path, vocab_size: usize, fingerprint: [u8; 32]) -> Result<Self> {
        Self::begin(path, vocab_size, fingerprint, false)
    }

    /// The same; `goes_on` says whether the first document goes on with that of the file before.
    pub(super) fn begin(
        path: &Path,
        vocab_size: usize,
        fingerprint: [u8; 32],
        goes_on: bool,
    ) -> Result<Self> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(Error::io("create", &partial))?;
        let token_bytes = if vocab_size <= 1 << 16 { 2 } else { 4 };
        let header = Header {
            token_bytes,
            goes_on,
            tokens: 0,
            documents: 0,
            fingerprint,
            contents: [0; 32],
        };
        let mut writer = Self {
            path: path.to_owned(),
            partial,
            file: BufWriter::with_capacity(1 << 18, file),
            contents: blake3::Hasher::new(),
            header,
            offsets: vec![0],
        };
        // Zeros, no valid header, until all else is written.
        writer.write_raw(&[0; HEADER_BYTES])?;
        Ok(writer)
    }

    /// Appends a document.
    ///
    /// # Errors
    /// A full disk, and a token that the vocabulary does not have.
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        self.append(tokens)?;
        self.end_document();
        Ok(())
    }

    /// Appends tokens to the document that is open.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        if self.header.token_bytes == 4 {
            self.write_contents(bytemuck::cast_slice(tokens))?;
        } else {
            let mut short = Vec::with_capacity(tokens.len());
            for &id in tokens {
                short.push(u16::try_from(id).map_err(|_| {
                    Error::setting("a token id", id, "one below the vocabulary's size")
                })?);
            }
            self.write_contents(bytemuck::cast_slice(&short))?;
        }
        self.header.tokens += tokens.len() as u64;
        Ok(())
    }

    /// Ends the document that is open; the next token begins another.
    pub fn end_document(&mut self) {
        self.header.documents += 1;
        self.offsets.push(self.header.tokens);
    }

    /// Number of tokens so far.
    pub(super) fn token_count(&self) -> u64 {
        self.header.tokens
    }

    /// Writes what is left, gives the file its name, and opens it.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(self) -> Result<TokenStore> {
        let path = self.path.clone();
        self.close()?;
        TokenStore::open(&path)
    }

    /// Writes what is left and gives the file its name.
    pub(super) fn close(mut self) -> Result<()> {
        let written = self.header.tokens * u64::from(self.header.token_bytes);
        let filling = written.next_multiple_of(8) - written;
        self.write_contents(&[0; 8][..filling as usize])?;
        let offsets = std::mem::take(&mut self.offsets);
        self.write_contents(bytemuck::cast_slice(&offsets))?;
        self.header.contents = *self.contents.finalize().as_bytes();
        let header = self.header.to_bytes();
        let mut write_header = || {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&header)?;
            self.file.flush()?;
            self.file.get_ref().sync_all()
        };
        write_header().map_err(Error::io("write", &self.partial))?;
        fs::rename(&self.partial, &self.path).map_err(Error::io("rename", &self.partial))
    }

    fn write_contents(&mut self, bytes: &[u8]) -> Result<()> {
        self.contents.update(bytes);
        self.write_raw(bytes)
    }

    fn write_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.partial))
    }
}
