//! One token file, open for reading.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::header::{HEADER_BYTES, Header};
use crate::error::{Error, Result};

/// Bytes that are read at a time where a whole file is.
const BLOCK_BYTES: usize = 1 << 20;

/// A token file. Where its documents begin is kept by the [`TokenStore`](super::TokenStore).
#[derive(Debug)]
pub(crate) struct ShardFile {
    path: PathBuf,
    file: File,
    header: Header,
}

impl ShardFile {
    /// Opens a file, after checking its header, its length, and that its documents lie in order.
    /// With it comes where each document begins, counted in tokens, and at last the number of
    /// tokens.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<u64>)> {
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
        Ok((Self { path: path.to_owned(), file, header }, offsets))
    }

    /// Reads the whole file, compares it with the checksum in its header, and checks that all
    /// tokens are below `vocab_size`.
    pub(crate) fn verify(&self, vocab_size: usize) -> Result<()> {
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

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.header.tokens
    }

    pub(super) fn goes_on(&self) -> bool {
        self.header.goes_on
    }

    /// The fingerprint of the tokenizer that made the tokens.
    pub(crate) fn fingerprint(&self) -> &[u8; 32] {
        &self.header.fingerprint
    }

    fn token_bytes(&self) -> usize {
        self.header.token_bytes.into()
    }

    /// Hands the tokens `range` to `take`.
    pub(super) fn read(
        &self,
        range: Range<usize>,
        take: &mut dyn FnMut(&mut dyn Iterator<Item = u32>),
    ) -> Result<()> {
        let mut bytes = vec![0; range.len() * self.token_bytes()];
        let at = HEADER_BYTES + range.start * self.token_bytes();
        self.read_exact_at(&mut bytes, at as u64)?;
        take(&mut self.ids(&bytes));
        Ok(())
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

pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> Error {
    Error::Shard { path: path.to_owned(), reason: reason.into() }
}
