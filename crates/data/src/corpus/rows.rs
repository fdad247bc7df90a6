//! Tables with several columns: examples with their labels, from CSV, TSV and JSON lines,
//! compressed or not, and from Parquet. Where another format arrives, it is one more [`RowSource`].

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use csv::{Reader, ReaderBuilder, StringRecord};
use serde_json::Value;

use super::format::{TextFormat, decompress};
use super::parquet_rows::ParquetRows;
use super::records::{JsonLinesReader, TableText, table_error};
use crate::error::{Error, Result};

/// A row's values, one for each column that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRow {
    /// Its line in the file, from 1: of one with several lines, the first; of Parquet, which has
    /// none, the row's number.
    pub line: u64,
    /// In the order of the columns; `null` where the row has nothing there. Those of CSV and TSV
    /// are texts.
    pub values: Vec<Value>,
}

/// The rows of a file, one after the other.
pub struct TableReader {
    path: PathBuf,
    rows: Box<dyn RowSource>,
}

/// A format's way to a file's rows.
pub(super) trait RowSource {
    fn next_row(&mut self) -> Result<Option<TableRow>>;
}

impl TableReader {
    /// Opens the file at `path` for `columns`. The first `required` of them must be there.
    ///
    /// # Errors
    /// A file that can't be read, that is no table by its name, or that lacks a required column;
    /// the error names those that there are.
    pub fn open(path: &Path, columns: &[&str], required: usize) -> Result<Self> {
        let io = || Error::io("read", path);
        let file = File::open(path).map_err(io())?;
        if TextFormat::of_name(path) == Some(TextFormat::Parquet) {
            let rows = Box::new(ParquetRows::new(file, path, columns, required)?);
            return Ok(Self { path: path.to_owned(), rows });
        }
        let text = BufReader::new(decompress(file).map_err(io())?);
        let rows: Box<dyn RowSource> = match TextFormat::of_name(path) {
            Some(TextFormat::JsonLines) => Box::new(JsonRows {
                lines: JsonLinesReader::new(text, path, ""),
                path: path.to_owned(),
                columns: columns.iter().map(|&name| name.to_owned()).collect(),
                required,
            }),
            Some(TextFormat::Table { separator }) => {
                Box::new(TextRows::new(text, path, separator, columns, required)?)
            }
            _ => {
                let reason = "is no table by its name: expected .csv, .tsv or .jsonl, also \
                              compressed, or .parquet";
                return Err(Error::Text { path: path.to_owned(), reason: reason.into() });
            }
        };
        Ok(Self { path: path.to_owned(), rows })
    }

    /// The next row; `None` after the last.
    ///
    /// # Errors
    /// A line that is none of a table, or that has nothing in a required column.
    pub fn next_row(&mut self) -> Result<Option<TableRow>> {
        self.rows.next_row()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

pub(super) fn lacks(path: &Path, line: Option<u64>, column: &str, known: &str) -> Error {
    let place = line.map(|line| format!("line {line} ")).unwrap_or_default();
    let reason = format!("{place}lacks the column {column:?}; it has {known}");
    Error::Text { path: path.to_owned(), reason }
}

struct JsonRows<R> {
    lines: JsonLinesReader<R>,
    path: PathBuf,
    columns: Vec<String>,
    required: usize,
}

impl<R: Read> RowSource for JsonRows<R> {
    fn next_row(&mut self) -> Result<Option<TableRow>> {
        let Some(text) = self.lines.next_line()? else { return Ok(None) };
        let line = self.lines.line_number();
        let bad = |reason: String| Error::Text { path: self.path.clone(), reason };
        let mut value: Value = serde_json::from_str(&text)
            .map_err(|error| bad(format!("line {line} is no JSON: {error}")))?;
        let Some(object) = value.as_object_mut() else {
            return Err(bad(format!("line {line} is no JSON object")));
        };
        let mut values = Vec::with_capacity(self.columns.len());
        for (index, column) in self.columns.iter().enumerate() {
            let found = object.get(column).cloned().unwrap_or_default();
            if found.is_null() && index < self.required {
                let known: Vec<&str> = object.keys().map(String::as_str).collect();
                return Err(lacks(&self.path, Some(line), column, &known.join(", ")));
            }
            values.push(found);
        }
        Ok(Some(TableRow { line, values }))
    }
}

struct TextRows<R> {
    rows: Reader<TableText<R>>,
    path: PathBuf,
    names: Vec<String>,
    /// Where each column stands; absent ones are not required.
    places: Vec<Option<usize>>,
    required: usize,
    row: StringRecord,
    /// How many lines the reader's count is behind: with `\r\n` it sees a row's end only when it
    /// reads the next.
    lag: u64,
}

impl<R: Read> TextRows<R> {
    fn new(text: R, path: &Path, separator: u8, columns: &[&str], required: usize) -> Result<Self> {
        let text = TableText::new(text, path);
        let mut rows = ReaderBuilder::new().delimiter(separator).flexible(true).from_reader(text);
        let names = rows.headers().map_err(|error| table_error(path, &error))?;
        let names: Vec<String> = names.iter().map(str::to_owned).collect();
        let place = |&column: &&str| names.iter().position(|name| name == column);
        let places: Vec<_> = columns.iter().map(place).collect();
        if let Some(missing) = places.iter().take(required).position(Option::is_none) {
            return Err(lacks(path, None, columns[missing], &names.join(", ")));
        }
        let inner: usize = names.iter().map(|name| name.matches('\n').count()).sum();
        let lag = (2 + inner as u64).saturating_sub(rows.position().line());
        let (path, row) = (path.to_owned(), StringRecord::new());
        Ok(Self { rows, path, names, places, required, row, lag })
    }
}

impl<R: Read> RowSource for TextRows<R> {
    fn next_row(&mut self) -> Result<Option<TableRow>> {
        self.rows.get_mut().begin_row();
        let read = self.rows.read_record(&mut self.row);
        if !read.map_err(|error| table_error(&self.path, &error))? {
            return Ok(None);
        }
        let line = self.row.position().map_or(0, csv::Position::line) + self.lag;
        let value = |(index, place): (usize, &Option<usize>)| {
            let found = place.and_then(|place| self.row.get(place));
            match (found, *place) {
                (Some(text), _) => Ok(text.into()),
                (None, Some(place)) if index < self.required => {
                    let reason = format!(
                        "line {line} has {} columns, and none for {:?}",
                        self.row.len(),
                        self.names[place]
                    );
                    Err(Error::Text { path: self.path.clone(), reason })
                }
                (None, _) => Ok(Value::Null),
            }
        };
        let values = self.places.iter().enumerate().map(value).collect::<Result<_>>()?;
        Ok(Some(TableRow { line, values }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(name: &str, text: &str, required: usize) -> Result<Vec<(u64, Vec<Value>)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut reader = TableReader::open(&path, &["text", "label", "more"], required)?;
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row()? {
            rows.push((row.line, row.values));
        }
        Ok(rows)
    }

    #[test]
    fn every_format_gives_rows_with_their_lines() {
        let expected = [
            (2, vec![json!("a, \"b\""), json!("x"), Value::Null]),
            (3, vec![json!("c\nd"), json!("y"), Value::Null]),
            (5, vec![json!("e"), json!("x"), Value::Null]),
        ];
        let csv = "label,text\nx,\"a, \"\"b\"\"\"\ny,\"c\nd\"\nx,e\n";
        assert_eq!(rows("t.csv", csv, 2).unwrap(), expected);
        let tsv = "label\ttext\nx\t\"a, \"\"b\"\"\"\ny\t\"c\nd\"\nx\te\n";
        assert_eq!(rows("t.tsv", tsv, 2).unwrap(), expected);
        let windows = "text,label\r\na,x\r\nb,y\r\n";
        let lines: Vec<u64> =
            rows("t.csv", windows, 2).unwrap().into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [2, 3]);
        let json_lines =
            "{\"text\":\"t\",\"label\":3}\n\n{\"label\":[1],\"text\":\"u\",\"more\":1}";
        let expected = [
            (1, vec![json!("t"), json!(3), Value::Null]),
            (3, vec![json!("u"), json!([1]), json!(1)]),
        ];
        assert_eq!(rows("t.jsonl", json_lines, 2).unwrap(), expected);
    }

    #[test]
    fn what_is_missing_is_told_with_its_line() {
        for (name, text, told) in [
            ("t.csv", "text,labels\na,b\n", "lacks the column \"label\"; it has text, labels"),
            ("t.csv", "text,label\na,b\nc\n", "line 3 has 1 columns, and none for \"label\""),
            ("t.jsonl", "{\"text\":1,\"label\":2}\n{\"text\":1}\n", "line 2 lacks the column"),
            ("t.jsonl", "{\"text\":1,\"label\":2}\n{\n", "line 2 is no JSON"),
            ("t.jsonl", "[1]\n", "line 1 is no JSON object"),
            ("t.parq", "", "is no table by its name"),
        ] {
            let error = rows(name, text, 2).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
