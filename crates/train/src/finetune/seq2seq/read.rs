//! Sources and targets from the columns of a table.

use std::path::Path;

use bert4rs_data::TableReader;

use crate::error::Result;
use crate::finetune::example::{bad_file, text_of};

/// Which columns hold what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumns {
    /// What is read.
    pub source: String,
    /// What is to be written.
    pub target: String,
}

impl Default for SourceColumns {
    fn default() -> Self {
        Self { source: "source".into(), target: "target".into() }
    }
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceText {
    /// Its line.
    pub line: u64,
    /// What is read.
    pub source: String,
    /// What is to be written; absent in a file without labels.
    pub target: Option<String>,
}

/// Reads the rows of a table; without targets if not `labelled`.
///
/// # Errors
/// A file that can't be read or lacks a column, an empty text, no row at all.
pub fn read_sources(
    path: &Path,
    columns: &SourceColumns,
    labelled: bool,
) -> Result<Vec<SourceText>> {
    let names = [columns.source.as_str(), columns.target.as_str()];
    let names = if labelled { &names[..] } else { &names[..1] };
    let mut reader = TableReader::open(path, names, names.len())?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        let text = |at: usize| text_of(path, row.line, names[at], &row.values[at]);
        let target = if labelled { Some(text(1)?) } else { None };
        rows.push(SourceText { line: row.line, source: text(0)?, target });
    }
    if rows.is_empty() {
        return Err(bad_file(path, "has no examples; expected a row for each below the names"));
    }
    Ok(rows)
}
