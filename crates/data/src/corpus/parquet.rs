//! Text in a column of a Parquet file. A value is a document.

use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bert4rs_tensor_core::error::panic_text;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::Documents;
use super::fragment::Fragment;
use super::lines::LineJoiner;
use super::records::whole_record;
use crate::error::{Error, Result};

/// Rows that are read at a time.
const ROWS: usize = 256;

/// The documents of a Parquet file.
pub(super) struct Parquet {
    file: SerializedFileReader<File>,
    path: PathBuf,
    /// The text's column.
    column: usize,
    /// The next group of rows, and what is left of the current one.
    next_group: usize,
    rows: Option<ColumnReaderImpl<ByteArrayType>>,
    values: VecDeque<ByteArray>,
    /// Rows that were read, for messages.
    row: u64,
    joiner: LineJoiner,
    bytes: u64,
    count: Arc<AtomicU64>,
}

impl Parquet {
    /// The documents in the column `field`, or in the only column, of `file`; `path` is for
    /// messages, and `count` hears how many bytes were read.
    ///
    /// # Errors
    /// A file that is damaged or has no such column of text.
    pub(super) fn new(file: File, path: &Path, field: &str, count: Arc<AtomicU64>) -> Result<Self> {
        let bytes = file.metadata().map_err(Error::io("read the corpus", path))?.len();
        let file = contain(path, || SerializedFileReader::new(file))?;
        let schema = file.metadata().file_metadata().schema_descr();
        let names: Vec<String> =
            schema.columns().iter().map(|column| column.path().string()).collect();
        let column = names.iter().position(|name| name == field);
        let Some(column) = column.or((names.len() == 1).then_some(0)) else {
            let reason = format!(
                "lacks the column {field:?}; it has {}; name another by data.text_field",
                names.join(", ")
            );
            return Err(Error::corpus(path, reason));
        };
        let found = schema.column(column);
        if found.physical_type() != Type::BYTE_ARRAY || found.max_rep_level() > 0 {
            let reason = format!(
                "has no text in the column {:?}, but {}; name another by data.text_field",
                names[column],
                if found.max_rep_level() > 0 {
                    "lists".into()
                } else {
                    found.physical_type().to_string()
                }
            );
            return Err(Error::corpus(path, reason));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            column,
            next_group: 0,
            rows: None,
            values: VecDeque::new(),
            row: 0,
            joiner: whole_record(),
            bytes,
            count,
        })
    }

    /// The next value that is there; rows without one are passed over.
    fn next_value(&mut self) -> Result<Option<ByteArray>> {
        loop {
            if let Some(value) = self.values.pop_front() {
                self.row += 1;
                return Ok(Some(value));
            }
            if self.rows.is_none() && !self.open_group()? {
                return Ok(None);
            }
            self.read_rows()?;
        }
    }

    /// Begins the next group of rows; whether there is one.
    fn open_group(&mut self) -> Result<bool> {
        let (groups, group) = (self.file.num_row_groups() as u64, self.next_group as u64);
        // Columns are read in pieces here and there, so that progress is told by groups.
        let read = u128::from(self.bytes) * u128::from(group) / u128::from(groups.max(1));
        self.count.store(if groups == 0 { self.bytes } else { read as u64 }, Ordering::Relaxed);
        if group >= groups {
            return Ok(false);
        }
        let (file, column) = (&self.file, self.column);
        let reader =
            contain(&self.path, || file.get_row_group(group as usize)?.get_column_reader(column))?;
        let ColumnReader::ByteArrayColumnReader(rows) = reader else {
            return Err(Error::corpus(&self.path, "has groups of rows of unlike types"));
        };
        (self.rows, self.next_group) = (Some(rows), self.next_group + 1);
        Ok(true)
    }

    fn read_rows(&mut self) -> Result<()> {
        let Some(rows) = &mut self.rows else { return Ok(()) };
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let (read, _, _) =
            contain(&self.path, || rows.read_records(ROWS, Some(&mut levels), None, &mut values))?;
        if read == 0 {
            self.rows = None;
        }
        self.values.extend(values);
        Ok(())
    }
}

impl Documents for Parquet {
    fn next_fragment(&mut self) -> Result<Option<Fragment>> {
        loop {
            if let Some(fragment) = self.joiner.fragments.pop() {
                return Ok(Some(fragment));
            }
            let Some(value) = self.next_value()? else { return Ok(None) };
            let text = std::str::from_utf8(value.data()).ok().filter(|text| !text.contains('\0'));
            let Some(text) = text else {
                let reason = format!("value {} is no text in UTF-8", self.row);
                return Err(Error::corpus(&self.path, reason));
            };
            self.joiner.push(text);
            self.joiner.end_document();
        }
    }
}

/// Turns what the `parquet` crate answers, and its panics on damaged files, into an error.
pub(super) fn contain<T>(
    path: &Path,
    read: impl FnOnce() -> parquet::errors::Result<T>,
) -> Result<T> {
    let reason = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(read)) => return Ok(read),
        Ok(Err(error)) => error.to_string(),
        Err(payload) => panic_text(&*payload),
    };
    Err(Error::corpus(path, format!("is no Parquet file that can be read: {reason}")))
}
