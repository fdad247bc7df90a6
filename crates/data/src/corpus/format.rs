//! What a file of a corpus is: how it is compressed, by its content, and what its text looks like,
//! by its name, and by its content where the name does not say.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;

use super::lines::{LineRule, Lines, heading_level};
use super::parquet::Parquet;
use super::records::{JsonLinesReader, Table};
use super::{CorpusReading, Documents};
use crate::error::{Error, Result};

/// What a text looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextFormat {
    /// Lines of text.
    Plain,
    /// Headings begin with `#`.
    Markdown,
    /// Headings stand between `=`.
    WikiText,
    /// A JSON object a line.
    JsonLines,
    /// A row of columns a line, under a row with their names.
    Table {
        /// What stands between columns.
        separator: u8,
    },
    /// A table by columns, compressed in itself.
    Parquet,
}

/// Endings of compressed files, which stand behind that of the text.
const COMPRESSED: [&str; 4] = ["gz", "zst", "xz", "bz2"];

impl TextFormat {
    /// What a file's name says, if it says anything.
    pub(super) fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        match ending(&name)? {
            "txt" | "text" => Some(Self::Plain),
            "md" | "markdown" => Some(Self::Markdown),
            "tokens" | "raw" if name.starts_with("wiki.") => Some(Self::WikiText),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "csv" => Some(Self::Table { separator: b',' }),
            "tsv" => Some(Self::Table { separator: b'\t' }),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    /// What a text is whose name says nothing, or no more than that it is text. Only where it says
    /// nothing, a first line of several columns with one named `field` is that of a table.
    fn of_content(begin: &[u8], name: Option<Self>, field: &str) -> Self {
        let begin = begin.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(begin);
        let text = String::from_utf8_lossy(begin);
        let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let names_field = |separator: char| {
            let mut columns = first.split(separator).map(|name| name.trim_matches('"'));
            first.contains(separator) && columns.any(|name| name == field)
        };
        let is_object = first.starts_with('{') && first.ends_with('}');
        if is_object && serde_json::from_str::<serde_json::Value>(first).is_ok() {
            Self::JsonLines
        } else if heading_level(first) == Some(1) {
            Self::WikiText
        } else if name.is_none() && names_field('\t') {
            Self::Table { separator: b'\t' }
        } else if name.is_none() && names_field(',') {
            Self::Table { separator: b',' }
        } else {
            Self::Plain
        }
    }
}

/// The documents of a file, and a count of its bytes that were read.
type Opened = (Box<dyn Documents>, Arc<AtomicU64>);

/// Opens a file of a corpus. The number counts the bytes of the file that were read.
///
/// # Errors
/// A file that can't be read, or a table without the text's column.
pub(super) fn open(path: &Path, reading: &CorpusReading) -> Result<Opened> {
    let io = || Error::io("read the corpus", path);
    let (count, field) = (Arc::new(AtomicU64::new(0)), &reading.text_field);
    let file = File::open(path).map_err(io())?;
    let name = TextFormat::of_name(path);
    if name == Some(TextFormat::Parquet) || begins_as_parquet(&file).map_err(io())? {
        let rows = Parquet::new(file, path, field, Arc::clone(&count))?;
        return Ok((Box::new(rows), count));
    }
    let file = Counted { file, count: Arc::clone(&count) };
    let mut text = BufReader::new(decompress(file).map_err(io())?);
    let format = match name {
        None | Some(TextFormat::Plain) => {
            TextFormat::of_content(text.fill_buf().map_err(io())?, name, field)
        }
        Some(format) => format,
    };
    if format == TextFormat::Plain && is_json(path) {
        let reason = "is JSON, but has no object a line; make it so, as with `jq -c '.[]'`, or \
                      name it .txt";
        return Err(Error::corpus(path, reason));
    }
    let documents: Box<dyn Documents> = match format {
        TextFormat::Plain => {
            Box::new(Lines::new(text, path, LineRule::Plain(reading.document_break)))
        }
        TextFormat::Markdown => Box::new(Lines::new(text, path, LineRule::Markdown)),
        TextFormat::WikiText => Box::new(Lines::new(text, path, LineRule::WikiText)),
        TextFormat::JsonLines => Box::new(JsonLinesReader::new(text, path, field)),
        TextFormat::Table { separator } => Box::new(Table::new(text, path, separator, field)?),
        TextFormat::Parquet => return Err(Error::corpus(path, "is no Parquet file")),
    };
    Ok((documents, count))
}

/// What a file's name ends in, where that of its compression is taken off.
fn ending(name: &str) -> Option<&str> {
    name.split_once('.')?.1.rsplit('.').find(|ending| !COMPRESSED.contains(ending))
}

fn is_json(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    ending(&name) == Some("json")
}

fn begins_as_parquet(file: &File) -> io::Result<bool> {
    let mut begin = [0; 4];
    Ok(file.read_at(&mut begin, 0)? == 4 && &begin == b"PAR1")
}

/// A file, and how much of it was read.
struct Counted {
    file: File,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(out)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The contents of a file that may be compressed, which its first bytes say.
pub(super) fn decompress(file: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(64 << 10, file);
    Ok(match file.fill_buf()? {
        [0x1F, 0x8B, ..] => Box::new(MultiGzDecoder::new(file)),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => Box::new(zstd::Decoder::with_buffer(file)?),
        [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(XzDecoder::new_multi_decoder(file)),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Box::new(MultiBzDecoder::new(file)),
        _ => Box::new(file),
    })
}
