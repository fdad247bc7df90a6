//! A labelled example, in tokens.

use std::path::Path;

use bert4rs_data::{EncodedText, PairTokenizer};
use serde_json::Value;

use crate::error::{Error, Result};

/// A text with what is to be learned of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Example<L> {
    /// Its line in its file, from 1; in a file that is one JSON value, its number.
    pub line: u64,
    /// Where a text is read in several parts, which it is: 0 for the first, and for the only one.
    pub part: usize,
    /// What was read, as an object.
    pub source: Value,
    /// Its tokens.
    pub text: EncodedText,
    /// Texts that are compared with it, each a sequence of its own; of most tasks none.
    pub others: Vec<EncodedText>,
    /// What is to be learned; absent where a file has none.
    pub label: Option<L>,
}

/// Examples by what they are of: several, where a text is read in parts.
pub fn wholes<L>(examples: &[Example<L>]) -> impl Iterator<Item = &[Example<L>]> {
    examples.chunk_by(|_, next| next.part > 0)
}

impl<L> Example<L> {
    /// Its sequences.
    pub fn texts(&self) -> impl Iterator<Item = &EncodedText> {
        std::iter::once(&self.text).chain(&self.others)
    }

    /// How many tokens all of them have.
    pub fn tokens(&self) -> usize {
        self.texts().map(|text| text.ids.len()).sum()
    }
}

/// The error for a line of a file.
pub fn bad_line(path: &Path, line: u64, reason: impl std::fmt::Display) -> Error {
    bad_file(path, format!("line {line} {reason}"))
}

/// The error for a file.
pub fn bad_file(path: &Path, reason: impl Into<String>) -> Error {
    Error::Data(bert4rs_data::Error::Text { path: path.to_owned(), reason: reason.into() })
}

/// A value of a table as the text to be read: numbers and truths as they are written.
///
/// # Errors
/// An empty text, which tells nothing, and lists.
pub fn text_of(path: &Path, line: u64, column: &str, value: &Value) -> Result<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => return Err(bad_line(path, line, format!("has no text in {column:?}, but {value}"))),
    };
    if text.trim().is_empty() {
        let reason = format!("has an empty text in {column:?}; remove the line, or fill it");
        return Err(bad_line(path, line, reason));
    }
    Ok(text)
}

/// A value of a table as a finite number, also where it stands as a text.
pub fn number_of(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// Texts of a file, or pairs of them, in tokens.
///
/// # Errors
/// A text that gives no token, and what the tokenizer refuses.
pub fn encode(
    tokenizer: &PairTokenizer,
    path: &Path,
    texts: &[(u64, String, Option<String>)],
) -> Result<Vec<EncodedText>> {
    let pairs: Vec<(&str, Option<&str>)> =
        texts.iter().map(|(_, first, second)| (first.as_str(), second.as_deref())).collect();
    let encoded = tokenizer.encode(&pairs)?;
    match encoded.iter().position(|text| text.ids.is_empty()) {
        Some(at) => Err(bad_line(path, texts[at].0, "has a text without any token")),
        None => Ok(encoded),
    }
}
