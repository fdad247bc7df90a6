//! Texts and labels from the columns of a table.

use std::path::Path;

use bert4rs_data::TableReader;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::finetune::example::{bad_file, text_of};

/// Which columns hold what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextColumns {
    /// The text.
    pub text: String,
    /// The second text of a pair; empty where there is none.
    pub text_pair: String,
    /// What is to be learned.
    pub label: String,
    /// What stands between several labels in a text; empty where each is one label.
    pub label_separator: String,
}

impl Default for TextColumns {
    fn default() -> Self {
        Self {
            text: "text".into(),
            text_pair: String::new(),
            label: "label".into(),
            label_separator: String::new(),
        }
    }
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledText {
    /// Its line.
    pub line: u64,
    /// The text.
    pub first: String,
    /// The second text of a pair.
    pub second: Option<String>,
    /// What stands in the label's column.
    pub label: Option<Value>,
}

/// Reads the rows of a table; without labels if not `labelled`.
///
/// # Errors
/// A file that can't be read or lacks a column, an empty text, no row at all.
pub fn read_texts(path: &Path, columns: &TextColumns, labelled: bool) -> Result<Vec<LabelledText>> {
    let mut names = vec![columns.text.as_str()];
    let is_pair = !columns.text_pair.is_empty();
    names.extend(is_pair.then_some(columns.text_pair.as_str()));
    names.extend(labelled.then_some(columns.label.as_str()));
    let mut reader = TableReader::open(path, &names, names.len())?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        let text = |at: usize| text_of(path, row.line, names[at], &row.values[at]);
        rows.push(LabelledText {
            line: row.line,
            first: text(0)?,
            second: if is_pair { Some(text(1)?) } else { None },
            label: labelled.then(|| row.values[names.len() - 1].clone()),
        });
    }
    if rows.is_empty() {
        return Err(bad_file(path, "has no examples; expected a row for each below the names"));
    }
    Ok(rows)
}
