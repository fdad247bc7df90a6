//! The first bytes of a token file.

use super::{MAGIC, VERSION};

pub(super) const HEADER_BYTES: usize = 128;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) token_bytes: u16,
    /// Whether the first document goes on with the last one of the file before.
    pub(super) goes_on: bool,
    pub(super) tokens: u64,
    pub(super) documents: u64,
    pub(super) fingerprint: [u8; 32],
    pub(super) contents: [u8; 32],
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.token_bytes.to_le_bytes());
        bytes[14] = self.goes_on.into();
        bytes[16..24].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.documents.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.fingerprint);
        bytes[64..96].copy_from_slice(&self.contents);
        let hash = blake3::hash(&bytes[..96]);
        bytes[96..128].copy_from_slice(hash.as_bytes());
        bytes
    }

    /// Reads a header, or says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
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
        let token_bytes = u16::from_le_bytes([bytes[12], bytes[13]]);
        if token_bytes != 2 && token_bytes != 4 {
            return Err(format!("has tokens of {token_bytes} bytes, expected 2 or 4"));
        }
        let mut header = Self {
            token_bytes,
            goes_on: bytes[14] != 0,
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
    pub(super) fn sizes(&self) -> Option<(u64, u64)> {
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
