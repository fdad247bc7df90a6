//! Text in records: JSON objects, a line each, and tables. A record's field is a document.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use csv::{Reader, ReaderBuilder, StringRecord};
use serde_json::Value;

use super::fragment::Fragment;
use super::lines::{LineJoiner, LineRule};
use super::{DocumentBreak, Documents};
use crate::error::{Error, Result};
use crate::text::{LineBlocks, TextBlocks};

/// The most bytes of a record, which has to be in memory as a whole.
const MAX_RECORD_BYTES: usize = 256 << 20;

pub(super) fn whole_record() -> LineJoiner {
    LineJoiner::new(LineRule::Plain(DocumentBreak::File))
}

/// The documents of JSON lines.
pub(super) struct JsonLinesReader<R> {
    blocks: LineBlocks<R>,
    path: PathBuf,
    field: String,
    /// The current block, and where in it the next line begins.
    block: String,
    at: usize,
    line_number: u64,
    joiner: LineJoiner,
}

impl<R: Read> JsonLinesReader<R> {
    /// The documents that `reader` gives in the field `field`; `path` is for messages.
    pub(super) fn new(reader: R, path: &Path, field: &str) -> Self {
        Self {
            blocks: LineBlocks::new(reader, path),
            path: path.to_owned(),
            field: field.to_owned(),
            block: String::new(),
            at: 0,
            line_number: 0,
            joiner: whole_record(),
        }
    }

    /// The next line that is not blank, without its end.
    pub(super) fn next_line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        loop {
            let rest = &self.block[self.at..];
            let end = rest.find('\n');
            line.push_str(&rest[..end.unwrap_or(rest.len())]);
            if line.len() > MAX_RECORD_BYTES {
                return Err(self.bad(self.line_number + 1, "is longer than 256 MiB"));
            }
            if let Some(end) = end {
                self.at += end + 1;
                self.line_number += 1;
                if !line.trim().is_empty() {
                    return Ok(Some(line));
                }
                line.clear();
                continue;
            }
            match self.blocks.next_block()? {
                Some(block) => (self.block, self.at) = (block, 0),
                None => {
                    (self.block, self.at) = (String::new(), 0);
                    self.line_number += 1;
                    return Ok((!line.trim().is_empty()).then_some(line));
                }
            }
        }
    }

    /// The number of the line that [`next_line`](Self::next_line) gave last, from 1.
    pub(super) fn line_number(&self) -> u64 {
        self.line_number
    }

    fn text_of(&self, line: &str) -> Result<String> {
        let value: Value = serde_json::from_str(line)
            .map_err(|error| self.bad(self.line_number, &format!("is no JSON: {error}")))?;
        let keys = || match value.as_object() {
            Some(object) => object.keys().cloned().collect::<Vec<_>>().join(", "),
            None => "none: it is no object".into(),
        };
        match value.get(&self.field) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(self.bad(self.line_number, &format!("has no text in {:?}", self.field))),
            None => Err(self.bad(
                self.line_number,
                &format!(
                    "lacks the field {:?}; it has {}; name another by data.text_field",
                    self.field,
                    keys()
                ),
            )),
        }
    }

    fn bad(&self, line: u64, what: &str) -> Error {
        Error::corpus(&self.path, format!("line {line} {what}"))
    }
}

impl<R: Read + Send> Documents for JsonLinesReader<R> {
    fn next_fragment(&mut self) -> Result<Option<Fragment>> {
        loop {
            if let Some(fragment) = self.joiner.fragments.pop() {
                return Ok(Some(fragment));
            }
            let Some(line) = self.next_line()? else { return Ok(None) };
            let text = self.text_of(&line)?;
            self.joiner.push(&text);
            self.joiner.end_document();
        }
    }
}

/// The documents of a table.
pub(super) struct Table<R> {
    rows: Reader<TableText<R>>,
    path: PathBuf,
    column: usize,
    row: StringRecord,
    joiner: LineJoiner,
}

impl<R: Read> Table<R> {
    /// The documents that `reader` gives in the column `field`, or in its only column; `path` is
    /// for messages.
    ///
    /// # Errors
    /// A table without that column.
    pub(super) fn new(reader: R, path: &Path, separator: u8, field: &str) -> Result<Self> {
        let text = TableText::new(reader, path);
        let mut rows = ReaderBuilder::new().delimiter(separator).flexible(true).from_reader(text);
        let names = rows.headers().map_err(|error| table_error(path, &error))?.clone();
        let column = names.iter().position(|name| name == field);
        // Several names in one are those of a table whose columns are separated otherwise.
        let is_only = names.len() == 1 && !names[0].contains([';', '\t', '|', ',']);
        let Some(column) = column.or(is_only.then_some(0)) else {
            let names: Vec<&str> = names.iter().collect();
            let expected = if separator == b'\t' { "tabs" } else { "commas" };
            let reason = format!(
                "lacks the column {field:?}; it has {}; name another by data.text_field, or \
                 separate columns by {expected}",
                names.join(", ")
            );
            return Err(Error::corpus(path, reason));
        };
        let (path, row) = (path.to_owned(), StringRecord::new());
        Ok(Self { rows, path, column, row, joiner: whole_record() })
    }
}

impl<R: Read + Send> Documents for Table<R> {
    fn next_fragment(&mut self) -> Result<Option<Fragment>> {
        loop {
            if let Some(fragment) = self.joiner.fragments.pop() {
                return Ok(Some(fragment));
            }
            self.rows.get_mut().begin_row();
            let read = self.rows.read_record(&mut self.row);
            if !read.map_err(|error| table_error(&self.path, &error))? {
                return Ok(None);
            }
            self.joiner.push(self.row.get(self.column).unwrap_or_default());
            self.joiner.end_document();
        }
    }
}

pub(super) fn table_error(path: &Path, error: &csv::Error) -> Error {
    Error::corpus(path, format!("is no table: {error}"))
}

/// Decoded text as bytes, which ends where a row has no end.
pub(super) struct TableText<R> {
    blocks: TextBlocks<R>,
    block: String,
    at: usize,
    /// Bytes that were read since the last row ended.
    since_row: usize,
}

impl<R: Read> TableText<R> {
    pub(super) fn new(reader: R, path: &Path) -> Self {
        let (blocks, block) = (TextBlocks::new(reader, path), String::new());
        Self { blocks, block, at: 0, since_row: 0 }
    }

    /// Says that a row begins here.
    pub(super) fn begin_row(&mut self) {
        self.since_row = 0;
    }
}

impl<R: Read> Read for TableText<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            match self.blocks.next_block().map_err(io::Error::other)? {
                Some(block) => (self.block, self.at) = (block, 0),
                None => return Ok(0),
            }
        }
        let rest = &self.block.as_bytes()[self.at..];
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        self.since_row += count;
        if self.since_row > MAX_RECORD_BYTES {
            let reason = "a row is longer than 256 MiB; is a quotation mark missing?";
            return Err(io::Error::other(reason));
        }
        Ok(count)
    }
}
