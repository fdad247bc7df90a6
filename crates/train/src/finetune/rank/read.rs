//! Queries with texts and how relevant these are, from the columns of a table.

use std::collections::HashSet;
use std::path::Path;

use bert4rs_data::TableReader;

use crate::error::Result;
use crate::finetune::example::{bad_file, bad_line, number_of, text_of};

/// Which columns hold what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelevanceColumns {
    /// What is sought.
    pub query: String,
    /// A text that may be found.
    pub text: String,
    /// How relevant it is.
    pub relevance: String,
}

impl Default for RelevanceColumns {
    fn default() -> Self {
        Self { query: "query".into(), text: "text".into(), relevance: "label".into() }
    }
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedText {
    /// Its line.
    pub line: u64,
    /// What is sought.
    pub query: String,
    /// A text that may be found.
    pub text: String,
    /// How relevant it is: 0 or more.
    pub relevance: Option<f64>,
    /// Whether it is the first of its query.
    pub first: bool,
}

/// Reads the rows of a table; without relevance if not `labelled`.
///
/// # Errors
/// A file that can't be read or lacks a column, an empty text, a relevance that is no number or
/// below 0, no row at all.
pub fn read_ranked(
    path: &Path,
    columns: &RelevanceColumns,
    labelled: bool,
) -> Result<Vec<RankedText>> {
    let names = [&*columns.query, &*columns.text, &*columns.relevance];
    let names = if labelled { &names[..] } else { &names[..2] };
    let mut reader = TableReader::open(path, names, names.len())?;
    let (mut rows, mut known) = (Vec::new(), HashSet::new());
    while let Some(row) = reader.next_row()? {
        let text = |at: usize| text_of(path, row.line, names[at], &row.values[at]);
        let relevance = match labelled {
            false => None,
            true => {
                Some(number_of(&row.values[2]).filter(|found| *found >= 0.0).ok_or_else(|| {
                    let (found, name) = (&row.values[2], names[2]);
                    let reason = format!("has {found} in {name:?}, expected a number, at least 0");
                    bad_line(path, row.line, reason)
                })?)
            }
        };
        let (query, text) = (text(0)?, text(1)?);
        let first = known.insert(query.clone());
        rows.push(RankedText { line: row.line, query, text, relevance, first });
    }
    match rows.is_empty() {
        true => Err(bad_file(path, "has no examples; expected a row for each below the names")),
        false => Ok(rows),
    }
}
