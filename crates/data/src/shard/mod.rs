//! Token files: the tokens of many documents end to end, read where they are needed.
//!
//! They are read and not mapped into memory, so that a file that was cut short is an error and not
//! the end of the process. Many tokens are in several files, of which each is of bounded size and
//! has a checksum of its own; a document may go on in the next.
//!
//! Layout, little-endian: a header of 128 bytes, the tokens (2 or 4 bytes each, filled up to a
//! multiple of 8 bytes with zeros), and where each document begins (`documents + 1` numbers of 8
//! bytes, counted in tokens; the last is the number of tokens).
//!
//! | header bytes | hold |
//! | --- | --- |
//! | 0..8 | `MAGIC` |
//! | 8..12 | `VERSION` |
//! | 12..14 | bytes of a token |
//! | 14..16 | 1 if the first document goes on with the last one of the file before, else 0 |
//! | 16..24 | number of tokens |
//! | 24..32 | number of documents |
//! | 32..64 | fingerprint of the tokenizer |
//! | 64..96 | BLAKE3 of all that follows the header |
//! | 96..128 | BLAKE3 of the header so far |

mod file;
mod header;
mod store_writer;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
pub(crate) use file::ShardFile;
use file::damaged;
pub(crate) use store_writer::{StoreWriter, Written, shard_path};
pub use writer::ShardWriter;

#[cfg(target_endian = "big")]
compile_error!("token files are read as they are, which is little-endian");

/// What every token file begins with.
pub const MAGIC: &[u8; 8] = b"b4tokens";
/// The layout described above; another layout gets another number.
pub const VERSION: u32 = 2;

/// The tokens of many documents, in one or several token files that are read as one.
#[derive(Debug)]
pub struct TokenStore {
    files: Vec<ShardFile>,
    /// The first token of each file, and at last the number of tokens.
    starts: Vec<u64>,
    /// Where each document begins, counted in tokens, and at last the number of tokens.
    offsets: Vec<u64>,
}

impl TokenStore {
    /// Opens one file, after checking its header, its length, and that its documents lie in order.
    ///
    /// # Errors
    /// A file that is missing, cut short, damaged, or of another format or version.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_all(&[path.to_owned()])
    }

    /// The same of several files, one after the other.
    ///
    /// # Errors
    /// As [`open`](Self::open), and files that don't go on with one another.
    pub fn open_all(paths: &[PathBuf]) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::setting("the number of token files", 0, "at least 1"));
        }
        let (mut files, mut starts, mut offsets) = (Vec::new(), vec![0], vec![0]);
        for path in paths {
            let (file, documents) = ShardFile::open(path)?;
            let start = starts.last().copied().unwrap_or(0);
            if file.goes_on() && (offsets.len() < 2 || documents.len() < 2) {
                return Err(damaged(path, "goes on with a document that no file begins"));
            }
            if file.goes_on() {
                offsets.pop();
            }
            let total = file.tokens().checked_add(start);
            let total = total.ok_or_else(|| damaged(path, "has more tokens than can be"))?;
            offsets.extend(documents[1..].iter().map(|offset| start + offset));
            starts.push(total);
            files.push(file);
        }
        Ok(Self { files, starts, offsets })
    }

    /// Reads all files, compares each with the checksum in its header, and checks that all tokens
    /// are below `vocab_size`.
    ///
    /// # Errors
    /// A file whose contents changed after they were written, and tokens that no model with this
    /// vocabulary has.
    pub fn verify(&self, vocab_size: usize) -> Result<()> {
        self.files.iter().try_for_each(|file| file.verify(vocab_size))
    }

    /// The fingerprint of the tokenizer that made the tokens, as the first file has it.
    pub fn fingerprint(&self) -> &[u8; 32] {
        self.files[0].fingerprint()
    }

    /// Its files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(ShardFile::path)
    }

    pub(crate) fn files(&self) -> &[ShardFile] {
        &self.files
    }

    /// Number of documents.
    pub fn document_count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of tokens, none of which is special.
    pub fn token_count(&self) -> usize {
        self.offsets[self.offsets.len() - 1] as usize
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
        let mut free = out.iter_mut();
        self.visit(range, &mut |ids| {
            free.by_ref().zip(ids).for_each(|(out, id)| *out = i64::from(id));
        })
    }

    /// The tokens `range`, of one document or across several.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// If `range` does not lie within the tokens.
    pub fn tokens(&self, range: Range<usize>) -> Result<Vec<u32>> {
        let mut all = Vec::with_capacity(range.len());
        self.visit(range, &mut |ids| all.extend(ids))?;
        Ok(all)
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

    /// Hands the tokens `range` to `take`, file by file.
    fn visit(
        &self,
        range: Range<usize>,
        take: &mut dyn FnMut(&mut dyn Iterator<Item = u32>),
    ) -> Result<()> {
        assert!(range.end <= self.token_count(), "tokens {range:?} of {}", self.token_count());
        let mut number = self.starts.partition_point(|&start| start <= range.start as u64);
        let mut start = range.start;
        while start < range.end {
            let first = self.starts[number - 1] as usize;
            let end = range.end.min(self.starts[number] as usize);
            self.files[number - 1].read(start - first..end - first, take)?;
            (start, number) = (end, number + 1);
        }
        Ok(())
    }
}
