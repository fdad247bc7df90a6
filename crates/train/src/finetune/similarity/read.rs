//! Texts to be compared, from the columns of a table: pairs with scores, pairs that belong
//! together, or triplets.

use std::path::Path;

use bert4rs_data::TableReader;
use serde_json::{Map, Value};

use crate::error::Result;
use crate::finetune::example::{bad_file, bad_line, number_of, text_of};

/// Which columns hold what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComparisonColumns {
    /// The text.
    pub text: String,
    /// The text that it is compared with.
    pub text_pair: String,
    /// A third text, which is to be farther from the first than the second is.
    pub negative: String,
    /// How alike both texts are.
    pub score: String,
}

impl Default for ComparisonColumns {
    fn default() -> Self {
        Self {
            text: "text".into(),
            text_pair: "text_pair".into(),
            negative: "negative".into(),
            score: "label".into(),
        }
    }
}

/// What the rows of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparisonForm {
    /// Two texts with a number.
    Scored,
    /// Two texts that belong together.
    Paired,
    /// A text, one that belongs to it, and one that does not.
    Triplets,
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparedTexts {
    /// Its line.
    pub line: u64,
    /// Two, or three.
    pub texts: Vec<String>,
    /// How alike the two are, where the table says it.
    pub score: Option<f64>,
}

/// Reads the rows of a table, all of the form that the first has; scores only if `labelled`.
///
/// # Errors
/// A file that can't be read or lacks both texts, an empty text, a score that is no number, rows
/// that lack what the first has, no row at all.
pub fn read_compared(
    path: &Path,
    columns: &ComparisonColumns,
    labelled: bool,
) -> Result<(ComparisonForm, Vec<ComparedTexts>)> {
    let names = [&*columns.text, &*columns.text_pair, &*columns.negative, &*columns.score];
    let mut reader = TableReader::open(path, &names, 2)?;
    let mut form = None;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        let has = |at: usize| !row.values[at].is_null();
        let form = *form.get_or_insert_with(|| match (has(2), labelled && has(3)) {
            (true, _) => ComparisonForm::Triplets,
            (false, true) => ComparisonForm::Scored,
            (false, false) => ComparisonForm::Paired,
        });
        let (texts, needed) = match form {
            ComparisonForm::Triplets => (3, Some(2)),
            ComparisonForm::Scored => (2, Some(3)),
            ComparisonForm::Paired => (2, None),
        };
        if let Some(missing) = needed.filter(|&at| !has(at)) {
            let reason = format!("has nothing in {:?}, where the first row has", names[missing]);
            return Err(bad_line(path, row.line, reason));
        }
        let text = |at: usize| text_of(path, row.line, names[at], &row.values[at]);
        let score = match form {
            ComparisonForm::Scored => Some(number_of(&row.values[3]).ok_or_else(|| {
                let reason = format!("has {} in {:?}, expected a number", row.values[3], names[3]);
                bad_line(path, row.line, reason)
            })?),
            _ => None,
        };
        let texts = (0..texts).map(text).collect::<Result<_>>()?;
        rows.push(ComparedTexts { line: row.line, texts, score });
    }
    match form {
        Some(form) => Ok((form, rows)),
        None => Err(bad_file(path, "has no examples; expected a row for each below the names")),
    }
}

impl ComparedTexts {
    /// What was read, as an object.
    pub(super) fn source(&self) -> Value {
        let names = ["text", "text_pair", "negative"].map(str::to_owned);
        let texts = self.texts.iter().cloned().map(Value::String);
        names.into_iter().zip(texts).collect::<Map<_, _>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, labelled: bool) -> Result<(ComparisonForm, Vec<ComparedTexts>)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::fs::write(&path, text).unwrap();
        read_compared(&path, &ComparisonColumns::default(), labelled)
    }

    #[test]
    fn the_first_row_says_what_all_are() {
        let scored = "text,text_pair,label\na,b,0.5\nc,d,1\n";
        let (form, rows) = read(scored, true).unwrap();
        assert_eq!(form, ComparisonForm::Scored);
        assert_eq!(rows[0].score, Some(0.5));
        assert_eq!(read(scored, false).unwrap().0, ComparisonForm::Paired);
        assert_eq!(read("text,text_pair\na,b\n", true).unwrap().0, ComparisonForm::Paired);
        let (form, rows) = read("text,negative,text_pair\na,n,p\n", true).unwrap();
        assert_eq!(form, ComparisonForm::Triplets);
        assert_eq!(rows[0].texts, ["a", "p", "n"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, told) in [
            ("text,label\na,1\n", "lacks the column \"text_pair\""),
            ("text,text_pair,label\na,b,high\n", "line 2 has \"high\" in \"label\""),
            ("text,text_pair,label\na,,1\n", "line 2 has an empty text in \"text_pair\""),
            ("text,text_pair,label\na,b,1\na,b\n", "line 3 has nothing in \"label\""),
            ("text,text_pair\n", "has no examples"),
        ] {
            let error = read(text, true).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
