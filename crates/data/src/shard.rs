//! Token files: the tokens of many documents end to end, mapped into memory.
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

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("token files are mapped as they are, which is little-endian");

/// What every token file begins with.
pub const MAGIC: &[u8; 8] = b"b4tokens";
/// The layout described above; another layout gets another number.
pub const VERSION: u32 = 1;
const HEADER_BYTES: usize = 128;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    token_bytes: u32,
    tokens: u64,
    documents: u64,
    fingerprint: [u8; 32],
    contents: [u8; 32],
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.token_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.documents.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.fingerprint);
        bytes[64..96].copy_from_slice(&self.contents);
        let hash = blake3::hash(&bytes[..96]);
        bytes[96..128].copy_from_slice(hash.as_bytes());
        bytes
    }

    /// Reads a header, or says what is wrong with it.
    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(format!("is cut short: {} of {HEADER_BYTES} header bytes", bytes.len()));
        };
        if &bytes[0..8] != MAGIC {
            return Err("is no token file of bert4rs".into());
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!("has format version {version}, expected {VERSION}"));
        }
        if blake3::hash(&bytes[..96]).as_bytes() != &bytes[96..128] {
            return Err("has a damaged header".into());
        }
        let token_bytes = u32_at(bytes, 12);
        if token_bytes != 2 && token_bytes != 4 {
            return Err(format!("has tokens of {token_bytes} bytes, expected 2 or 4"));
        }
        let mut header = Self {
            token_bytes,
            tokens: u64_at(bytes, 16),
            documents: u64_at(bytes, 24),
            fingerprint: [0; 32],
            contents: [0; 32],
        };
        header.fingerprint.copy_from_slice(&bytes[32..64]);
        header.contents.copy_from_slice(&bytes[64..96]);
        Ok(header)
    }

    /// Bytes of the tokens with what fills them up, and of the whole file.
    fn sizes(&self) -> Option<(u64, u64)> {
        let tokens =
            self.tokens.checked_mul(self.token_bytes.into())?.checked_next_multiple_of(8)?;
        let offsets = self.documents.checked_add(1)?.checked_mul(8)?;
        Some((tokens, tokens.checked_add(offsets)?.checked_add(HEADER_BYTES as u64)?))
    }
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// A token file, mapped into memory.
#[derive(Debug)]
pub struct TokenShard {
    path: PathBuf,
    map: Mmap,
    header: Header,
    /// Where the documents' offsets begin in the file.
    offsets_at: usize,
}

/// Tokens as they lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens<'a> {
    /// Of a vocabulary of at most 65,536.
    Short(&'a [u16]),
    /// Of any vocabulary.
    Long(&'a [u32]),
}

impl TokenShard {
    /// Maps a file, after checking its header, its length, and that its documents lie in order.
    ///
    /// # Errors
    /// A file that is missing, cut short, damaged, or of another format or version.
    pub fn open(path: &Path) -> Result<Self> {
        let map = bert4rs_tensor_core::files::map_file(path)?;
        let header = Header::parse(&map).map_err(|reason| damaged(path, reason))?;
        let expected = header.sizes();
        let Some((token_bytes, _)) = expected.filter(|&(_, file)| file == map.len() as u64) else {
            let expected = expected.map_or("more".into(), |(_, file)| file.to_string());
            let reason = format!("has {} bytes, expected {expected}", map.len());
            return Err(damaged(path, reason));
        };
        let offsets_at = HEADER_BYTES + token_bytes as usize;
        let shard = Self { path: path.to_owned(), map, header, offsets_at };
        let offsets = shard.offsets();
        let ordered = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        if !ordered || offsets.first() != Some(&0) || offsets.last() != Some(&header.tokens) {
            return Err(damaged(path, "has documents out of order"));
        }
        Ok(shard)
    }

    /// Reads the whole file and compares it with the checksum in its header.
    ///
    /// # Errors
    /// A file whose contents changed after they were written.
    pub fn verify(&self) -> Result<()> {
        if blake3::hash(&self.map[HEADER_BYTES..]).as_bytes() == &self.header.contents {
            Ok(())
        } else {
            Err(damaged(&self.path, "does not match its checksum"))
        }
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
        bytemuck::cast_slice(&self.map[self.offsets_at..])
    }

    /// The tokens `range`, of one document or across several.
    ///
    /// # Panics
    /// If `range` does not lie within the tokens.
    pub fn tokens(&self, range: Range<usize>) -> Tokens<'_> {
        let size = self.header.token_bytes as usize;
        assert!(range.end <= self.token_count(), "tokens {range:?} of {}", self.token_count());
        let bytes = &self.map[HEADER_BYTES + range.start * size..HEADER_BYTES + range.end * size];
        match size {
            2 => Tokens::Short(bytemuck::cast_slice(bytes)),
            _ => Tokens::Long(bytemuck::cast_slice(bytes)),
        }
    }

    /// The tokens of one document.
    ///
    /// # Panics
    /// If there is no such document.
    pub fn document(&self, index: usize) -> Tokens<'_> {
        let offsets = self.offsets();
        self.tokens(offsets[index] as usize..offsets[index + 1] as usize)
    }
}

impl Tokens<'_> {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::Short(tokens) => tokens.len(),
            Self::Long(tokens) => tokens.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the tokens to `out`, which has the same length.
    ///
    /// # Panics
    /// If it has another length.
    pub fn copy_to(&self, out: &mut [i64]) {
        assert_eq!(self.len(), out.len(), "room for the tokens");
        match self {
            Self::Short(tokens) => {
                out.iter_mut().zip(*tokens).for_each(|(out, &id)| *out = i64::from(id));
            }
            Self::Long(tokens) => {
                out.iter_mut().zip(*tokens).for_each(|(out, &id)| *out = i64::from(id));
            }
        }
    }

    /// The tokens one by one.
    pub fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::Short(tokens) => tokens.iter().map(|&id| u32::from(id)).collect(),
            Self::Long(tokens) => tokens.to_vec(),
        }
    }
}

fn damaged(path: &Path, reason: impl Into<String>) -> Error {
    Error::Shard { path: path.to_owned(), reason: reason.into() }
}

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
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(Error::io("create", &partial))?;
        let token_bytes = if vocab_size <= 1 << 16 { 2 } else { 4 };
        let header =
            Header { token_bytes, tokens: 0, documents: 0, fingerprint, contents: [0; 32] };
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
        self.header.documents += 1;
        self.offsets.push(self.header.tokens);
        Ok(())
    }

    /// Number of documents so far.
    pub fn document_count(&self) -> usize {
        self.header.documents as usize
    }

    /// Writes what is left, gives the file its name, and opens it.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(mut self) -> Result<TokenShard> {
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
        fs::rename(&self.partial, &self.path).map_err(Error::io("rename", &self.partial))?;
        TokenShard::open(&self.path)
    }

    fn write_contents(&mut self, bytes: &[u8]) -> Result<()> {
        self.contents.update(bytes);
        self.write_raw(bytes)
    }

    fn write_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.partial))
    }
}
