//! Prompts with completions, or texts alone, from the columns of a table.

use std::path::Path;

use bert4rs_data::TableReader;
use serde_json::Value;

use crate::error::Result;
use crate::finetune::example::{bad_file, bad_line, text_of};

/// Which columns hold what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionColumns {
    /// What is given.
    pub prompt: String,
    /// What is to be learned.
    pub completion: String,
    /// The text, where a row has no completion.
    pub text: String,
}

impl Default for CompletionColumns {
    fn default() -> Self {
        Self { prompt: "prompt".into(), completion: "completion".into(), text: "text".into() }
    }
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptedText {
    /// Its line.
    pub line: u64,
    /// What is given; empty where there is none.
    pub prompt: String,
    /// What is to be learned.
    pub completion: String,
}

/// Reads the rows of a table: of one that has completions, these after their prompts; else texts.
///
/// # Errors
/// A file that can't be read or has neither, an empty text, no row at all.
pub fn read_prompted(path: &Path, columns: &CompletionColumns) -> Result<Vec<PromptedText>> {
    let names = [&*columns.prompt, &*columns.completion, &*columns.text];
    let mut reader = TableReader::open(path, &names, 0)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        let has = |at: usize| !row.values[at].is_null();
        let text = |at: usize| text_of(path, row.line, names[at], &row.values[at]);
        let (prompt, completion) = match (has(0), has(1), has(2)) {
            (true, true, _) => (text(0)?, text(1)?),
            (false, true, _) => (String::new(), text(1)?),
            (_, false, true) => (String::new(), text(2)?),
            (_, false, false) => {
                let [prompt, completion, text] = names;
                let reason = format!(
                    "has neither {completion:?}, which may stand beside {prompt:?}, nor {text:?}"
                );
                return Err(bad_line(path, row.line, reason));
            }
        };
        rows.push(PromptedText { line: row.line, prompt, completion });
    }
    if rows.is_empty() {
        return Err(bad_file(path, "has no examples; expected a row for each below the names"));
    }
    Ok(rows)
}

impl PromptedText {
    /// What was read, as an object.
    pub(super) fn source(&self) -> Value {
        match self.prompt.as_str() {
            "" => serde_json::json!({ "text": self.completion }),
            prompt => serde_json::json!({ "prompt": prompt, "completion": self.completion }),
        }
    }
}
