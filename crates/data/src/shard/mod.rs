//! Token files: the tokens of many documents end to end, read where they are needed.
//!
//! They are read and not mapped into memory, so that a file that was cut short is an error and not
//! the end of the process.
//!
//! Layout, little-endian: a header of 128 bytes, the tokens (2 or 4 bytes each, filled up to a
//! multiple of 8 bytes with zeros), and where each document begins (`documents + 1` numbers of 8
//! bytes, counted in tokens; the last is the number of tokens).
//!
//! | header bytes | hold |
//! | --- | --- |
//! | 0..8 | `MAGIC` |
//! | 8..12 | `VERSION` |
//! | 12..16 | bytes of a token |
//! | 16..24 | number of tokens |
//! | 24..32 | number of documents |
//! | 32..64 | fingerprint of the tokenizer |
//! | 64..96 | BLAKE3 of all that follows the header |
//! | 96..128 | BLAKE3 of the header so far |

mod header;
mod writer;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use header::{HEADER_BYTES, Header};
pub use writer::ShardWriter;

#[cfg(target_endian = "big")]
compile_error!("token files are read as they are, which is little-endian");

/// What every token file begins with.
pub const MAGIC: &[u8; 8] = b"b4tokens";
/// The layout described above; another layout gets another number.
pub const VERSION: u32 = 1;
/// Bytes that are read at a time where a whole file is.
const BLOCK_BYTES: usize = 1 << 20;

/// A token file, open for reading.
#[derive(Debug)]
pub struct TokenShard {
    path: PathBuf,
    file: File,
    header: Header,
    /// Where each document begins, counted in tokens, and at last the number of tokens.
    offsets: Vec<u64>,
}

impl TokenShard {
    /// Opens a file, after checking its header, its length, and that its documents lie in order.
    ///
    /// # Errors
    /// A file that is missing, cut short, damaged, or of another format or version.
    pub fn open(path: &Path) -> Result<Self> {
        let io = || Error::io("read", path);
        let mut file = File::open(path).map_err(io())?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        file.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut bytes).map_err(io())?;
        let header = Header::parse(&bytes).map_err(|reason| damaged(path, reason))?;
        let length = file.metadata().map_err(io())?.len();
        let expected = header.sizes();
        let Some((token_bytes, _)) = expected.filter(|&(_, file)| file == length) else {
            let expected = expected.map_or("more".into(), |(_, file)| file.to_string());
            let reason = format!("has {length} bytes, expected {expected}");
            return Err(damaged(path, reason));
        };
        // The length is that of the file, so there is as much to read as there is to hold.
        let mut offsets = vec![0u64; header.documents as usize + 1];
        file.seek(SeekFrom::Start(HEADER_BYTES as u64 + token_bytes)).map_err(io())?;
        file.read_exact(bytemuck::cast_slice_mut(&mut offsets)).map_err(io())?;
        let ordered = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        if !ordered || offsets.first() != Some(&0) || offsets.last() != Some(&header.tokens) {
            return Err(damaged(path, "has documents out of order"));
        }
        Ok(Self { path: path.to_owned(), file, header, offsets })
    }

    /// Reads the whole file, compares it with the checksum in its header, and checks that all
    /// tokens are below `vocab_size`.
    ///
    /// # Errors
    /// A file whose contents changed after they were written, and tokens that no model with this
    /// vocabulary has.
    pub fn verify(&self, vocab_size: usize) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        let token_end = HEADER_BYTES as u64 + self.header.tokens * self.token_bytes() as u64;
        let end = self.file.metadata().map_err(Error::io("read", &self.path))?.len();
        let mut block = vec![0; BLOCK_BYTES];
        let mut greatest = 0;
        let mut at = HEADER_BYTES as u64;
        while at < end {
            let length = (end - at).min(BLOCK_BYTES as u64) as usize;
            self.read_exact_at(&mut block[..length], at)?;
            hasher.update(&block[..length]);
            let tokens = token_end.saturating_sub(at).min(length as u64) as usize;
            greatest = self.ids(&block[..tokens]).max().unwrap_or(0).max(greatest);
            at += length as u64;
        }
        if hasher.finalize().as_bytes() != &self.header.contents {
            return Err(damaged(&self.path, "does not match its checksum"));
        }
        if greatest as usize >= vocab_size.max(1) {
            let reason = format!("has the token {greatest}, but the vocabulary is {vocab_size}");
            return Err(damaged(&self.path, reason));
        }
        Ok(())
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of documents.
    pub fn document_count(&self) -> usize {
        self.header.documents as usize
    }

    /// Number of tokens, none of which is special.
    pub fn token_count(&self) -> usize {
        self.header.tokens as usize
    }

    /// The fingerprint of the tokenizer that made the tokens.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.header.fingerprint
    }

    /// Where each document begins, counted in tokens, and at last the number of tokens.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// Reads the tokens `range`, of one document or across several, into `out`, which has the same
    /// length.
    ///
    /// # Errors
    /// A file that was cut short since it was opened, or can't be read.
    ///
    /// # Panics
    /// If `range` does not lie within the tokens, or `out` has another length.
    pub fn read(&self, range: Range<usize>, out: &mut [i64]) -> Result<()> {
        assert_eq!(range.len(), out.len(), "room for the tokens");
        let bytes = self.read_bytes(range)?;
        out.iter_mut().zip(self.ids(&bytes)).for_each(|(out, id)| *out = i64::from(id));
        Ok(())
    }

    /// The tokens `range`, of one document or across several.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// If `range` does not lie within the tokens.
    pub fn tokens(&self, range: Range<usize>) -> Result<Vec<u32>> {
        let bytes = self.read_bytes(range)?;
        Ok(self.ids(&bytes).collect())
    }

    /// The tokens of one document.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// If there is no such document.
    pub fn document(&self, index: usize) -> Result<Vec<u32>> {
        self.tokens(self.offsets[index] as usize..self.offsets[index + 1] as usize)
    }

    fn token_bytes(&self) -> usize {
        self.header.token_bytes as usize
    }

    fn read_bytes(&self, range: Range<usize>) -> Result<Vec<u8>> {
        assert!(range.end <= self.token_count(), "tokens {range:?} of {}", self.token_count());
        let mut bytes = vec![0; range.len() * self.token_bytes()];
        let at = HEADER_BYTES + range.start * self.token_bytes();
        self.read_exact_at(&mut bytes, at as u64)?;
        Ok(bytes)
    }

    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                damaged(&self.path, "was cut short while it was in use; have it made anew")
            }
            _ => Error::io("read", &self.path)(error),
        })
    }

    /// Tokens as they lie in a file.
    fn ids<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = u32> + use<'a> {
        let size = self.token_bytes();
        bytes.chunks_exact(size).map(move |token| match token {
            [low, high] => u32::from(u16::from_le_bytes([*low, *high])),
            [a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => 0,
        })
    }
}

fn damaged(path: &Path, reason: impl Into<String>) -> Error {
    Error::Shard { path: path.to_owned(), reason: reason.into() }
}
