//! The one reader of text: UTF-8 with or without a byte order mark, and UTF-16 with one.
//!
//! A byte order mark is no part of the text. What is not text is refused with the byte at fault.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes that are read and decoded at a time.
const BLOCK_BYTES: usize = 256 << 10;

/// The whole text of a file.
///
/// # Errors
/// A file that can't be read, or is neither UTF-8 nor UTF-16 with a byte order mark.
pub fn read_text(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    collect(TextBlocks::new(file, path))
}

/// The text in `bytes`, which were read from `path`.
///
/// # Errors
/// As [`read_text`].
pub(crate) fn decode_text(path: &Path, bytes: &[u8]) -> Result<String> {
    collect(TextBlocks::new(bytes, path))
}

fn collect(mut blocks: TextBlocks<impl Read>) -> Result<String> {
    let mut text = String::new();
    while let Some(block) = blocks.next_block()? {
        text.push_str(&block);
    }
    Ok(text)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16(ByteOrder),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteOrder {
    Little,
    Big,
}

/// What a file that begins with `bytes` is written in, and how many bytes its mark takes.
fn sniff(bytes: &[u8]) -> (Encoding, usize) {
    match bytes {
        [0xEF, 0xBB, 0xBF, ..] => (Encoding::Utf8, 3),
        [0xFF, 0xFE, ..] => (Encoding::Utf16(ByteOrder::Little), 2),
        [0xFE, 0xFF, ..] => (Encoding::Utf16(ByteOrder::Big), 2),
        _ => (Encoding::Utf8, 0),
    }
}

/// A text in blocks, so that memory does not grow with the file.
pub(crate) struct TextBlocks<R> {
    reader: R,
    path: PathBuf,
    /// `None` before the first block.
    encoding: Option<Encoding>,
    /// Read and not yet decoded: at most one character's beginning between two blocks.
    pending: Vec<u8>,
    /// Where in the text's bytes `pending` begins.
    offset: u64,
    at_end: bool,
}

impl<R: Read> TextBlocks<R> {
    /// The text that `reader` gives; `path` is for messages.
    pub(crate) fn new(reader: R, path: &Path) -> Self {
        let path = path.to_owned();
        Self { reader, path, encoding: None, pending: Vec::new(), offset: 0, at_end: false }
    }

    /// The next block, or `None` at the end.
    ///
    /// # Errors
    /// A file that can't be read; bytes that are no text.
    pub(crate) fn next_block(&mut self) -> Result<Option<String>> {
        if self.at_end {
            return Ok(None);
        }
        let read = self.reader.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut self.pending);
        self.at_end = read.map_err(Error::io("read", &self.path))? < BLOCK_BYTES;
        let encoding = match self.encoding {
            Some(encoding) => encoding,
            None => {
                let (encoding, mark) = sniff(&self.pending);
                self.pending.drain(..mark);
                self.offset += mark as u64;
                *self.encoding.insert(encoding)
            }
        };
        let bytes = std::mem::take(&mut self.pending);
        let text = match encoding {
            Encoding::Utf8 => self.decode_utf8(bytes)?,
            Encoding::Utf16(order) => self.decode_utf16(&bytes, order)?,
        };
        Ok(Some(text))
    }

    fn decode_utf8(&mut self, mut bytes: Vec<u8>) -> Result<String> {
        if let Err(error) = std::str::from_utf8(&bytes) {
            let end = error.valid_up_to();
            if error.error_len().is_some() || self.at_end {
                let reason = "is not UTF-8; convert the file, as with `iconv -f latin1 -t utf-8`";
                return Err(self.not_text(end, reason));
            }
            self.pending = bytes.split_off(end);
        }
        if let Some(index) = bytes.iter().position(|&byte| byte == 0) {
            return Err(self.not_text(index, NUL));
        }
        self.offset += bytes.len() as u64;
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            self.not_text(at, "is not UTF-8")
        })
    }

    fn decode_utf16(&mut self, bytes: &[u8], order: ByteOrder) -> Result<String> {
        let unit = |pair: &[u8]| match order {
            ByteOrder::Little => u16::from_le_bytes([pair[0], pair[1]]),
            ByteOrder::Big => u16::from_be_bytes([pair[0], pair[1]]),
        };
        let mut units: Vec<u16> = bytes.chunks_exact(2).map(unit).collect();
        // The first half of a pair of surrogates waits for the second.
        if !self.at_end && units.last().is_some_and(|unit| (0xD800..0xDC00).contains(unit)) {
            units.pop();
        }
        let whole = 2 * units.len();
        self.pending = bytes[whole..].to_vec();
        if self.at_end && !self.pending.is_empty() {
            return Err(self.not_text(whole, "is half a UTF-16 unit"));
        }
        let mut text = String::with_capacity(bytes.len());
        let mut at = 0;
        for decoded in char::decode_utf16(units) {
            match decoded {
                Ok('\0') => return Err(self.not_text(at, NUL)),
                Ok(character) => {
                    text.push(character);
                    at += 2 * character.len_utf16();
                }
                Err(_) => return Err(self.not_text(at, "is not UTF-16")),
            }
        }
        self.offset += whole as u64;
        Ok(text)
    }

    fn not_text(&self, index: usize, what: &str) -> Error {
        let reason = format!("byte {} {what}", self.offset + index as u64);
        Error::Text { path: self.path.clone(), reason }
    }
}

/// A text in blocks that end where lines do, unless a line is longer than a block.
pub(crate) struct LineBlocks<R> {
    blocks: TextBlocks<R>,
    /// The beginning of a line whose end was not read yet.
    rest: String,
}

impl<R: Read> LineBlocks<R> {
    /// The text that `reader` gives; `path` is for messages.
    pub(crate) fn new(reader: R, path: &Path) -> Self {
        Self { blocks: TextBlocks::new(reader, path), rest: String::new() }
    }

    /// The next block, or `None` at the end.
    ///
    /// # Errors
    /// As [`TextBlocks::next_block`].
    pub(crate) fn next_block(&mut self) -> Result<Option<String>> {
        loop {
            let Some(block) = self.blocks.next_block()? else {
                let rest = std::mem::take(&mut self.rest);
                return Ok((!rest.is_empty()).then_some(rest));
            };
            self.rest.push_str(&block);
            let end = match self.rest.rfind('\n') {
                Some(last) => last + 1,
                None if self.rest.len() >= BLOCK_BYTES => self.rest.len(),
                None => continue,
            };
            let rest = self.rest.split_off(end);
            return Ok(Some(std::mem::replace(&mut self.rest, rest)));
        }
    }
}

const NUL: &str = "is NUL, so this is no text; expected UTF-8 text";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<String> {
        decode_text("t.txt".as_ref(), bytes)
    }

    fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(to_bytes).collect()
    }

    #[test]
    fn byte_order_marks_are_no_text() {
        for text in ["", "a", "naïve 中 😀\r\n"] {
            assert_eq!(decode(text.as_bytes()).unwrap(), text);
            assert_eq!(decode(format!("\u{feff}{text}").as_bytes()).unwrap(), text);
            assert_eq!(decode(&utf16(text, u16::to_le_bytes)).unwrap(), text);
            assert_eq!(decode(&utf16(text, u16::to_be_bytes)).unwrap(), text);
        }
    }

    #[test]
    fn characters_across_blocks_are_whole() {
        for shift in 0..5 {
            let text = "x".repeat(shift) + &"😀".repeat(BLOCK_BYTES / 2);
            assert_eq!(decode(text.as_bytes()).unwrap(), text);
            assert_eq!(decode(&utf16(&text, u16::to_le_bytes)).unwrap(), text);
        }
    }

    #[test]
    fn blocks_of_lines_end_where_lines_do() {
        let lines = "some words\n".repeat(BLOCK_BYTES / 5);
        let text = lines.clone() + &"x".repeat(3 * BLOCK_BYTES) + "\n" + &lines;
        let mut blocks = LineBlocks::new(text.as_bytes(), "t.txt".as_ref());
        let mut read = String::new();
        while let Some(block) = blocks.next_block().unwrap() {
            assert!(block.ends_with('\n') || block.ends_with('x'), "a line was cut");
            assert!(block.len() <= 2 * BLOCK_BYTES);
            read += &block;
        }
        assert!(read == text);
    }

    #[test]
    fn what_is_no_text_is_refused_with_the_byte() {
        let check = |bytes: &[u8], expected: &str| {
            let message = decode(bytes).unwrap_err().to_string();
            assert!(message.contains("t.txt") && message.contains(expected), "{message}");
        };
        check(b"abc\xff", "byte 3 is not UTF-8");
        check(b"\xef\xbb\xbfabc\xc3", "byte 6 is not UTF-8");
        check(b"ab\0c", "byte 2 is NUL");
        check(b"\xff\xfea\0b", "byte 4 is half a UTF-16 unit");
        check(b"\xff\xfea\0\x00\xdc", "byte 4 is not UTF-16");
        let mut long = vec![b'x'; 3 * BLOCK_BYTES];
        long[BLOCK_BYTES + 7] = 0xff;
        check(&long, &format!("byte {} is not UTF-8", BLOCK_BYTES + 7));
    }

    proptest! {
        #[test]
        fn any_bytes_are_text_or_refused(bytes: Vec<u8>) {
            match decode(&bytes) {
                Ok(text) => prop_assert!(!text.contains('\0')),
                Err(error) => prop_assert!(error.to_string().contains("t.txt")),
            }
        }
    }
}
