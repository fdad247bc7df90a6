//! Words and tags from files of columns, as CoNLL's, and from JSON lines.

use std::path::Path;

use bert4rs_data::{TableReader, read_text};
use serde_json::Value;

use crate::error::Result;
use crate::finetune::example::{bad_file, bad_line};

/// Which columns or fields hold what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordColumns {
    /// The list of words in JSON lines.
    pub words: String,
    /// The list of tags in JSON lines.
    pub tags: String,
    /// The column of words in files of columns, from 0.
    pub word_column: i64,
    /// The column of tags; -1 is the last.
    pub tag_column: i64,
}

impl Default for WordColumns {
    fn default() -> Self {
        let (words, tags) = ("tokens".into(), "tags".into());
        Self { words, tags, word_column: 0, tag_column: -1 }
    }
}

/// Words with their tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedText {
    /// Its first line in the file.
    pub line: u64,
    /// At least one.
    pub words: Vec<String>,
    /// One for each word.
    pub tags: Option<Vec<String>>,
    /// The line of each word.
    pub lines: Vec<u64>,
}

/// CoNLL-2003's mark between documents.
const DOCUMENT: &str = "-DOCSTART-";

/// Reads texts of words; without tags if not `labelled`.
///
/// # Errors
/// A file that can't be read, lines with too few columns, as many tags as words.
pub fn read_words(path: &Path, columns: &WordColumns, labelled: bool) -> Result<Vec<TaggedText>> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let texts = match ending {
        "jsonl" | "ndjson" | "parquet" => of_json(path, columns, labelled)?,
        "csv" => {
            let reason = "holds no words with tags by its name; expected .jsonl or .parquet \
                          with lists of both, or a file of columns, a word a line";
            return Err(bad_file(path, reason));
        }
        _ => of_columns(path, columns, labelled)?,
    };
    if texts.is_empty() {
        return Err(bad_file(path, "has no words"));
    }
    Ok(texts)
}

fn of_columns(path: &Path, columns: &WordColumns, labelled: bool) -> Result<Vec<TaggedText>> {
    let text = read_text(path)?;
    let mut texts = Vec::new();
    let mut current: Option<TaggedText> = None;
    for (line, number) in text.lines().zip(1..) {
        let cells: Vec<&str> = line.split_whitespace().collect();
        if cells.is_empty() || cells[0] == DOCUMENT {
            texts.extend(current.take());
            continue;
        }
        let cell = |column: i64| {
            let place = if column < 0 { cells.len() as i64 + column } else { column };
            usize::try_from(place).ok().and_then(|place| cells.get(place).copied())
        };
        let broken = |what: &str, column: i64| {
            let count = cells.len();
            let reason = format!("has {count} columns, and no {what} in column {column}: {line:?}");
            bad_line(path, number, reason)
        };
        let word = cell(columns.word_column).ok_or_else(|| broken("word", columns.word_column))?;
        let text = current.get_or_insert_with(|| TaggedText {
            line: number,
            words: Vec::new(),
            tags: labelled.then(Vec::new),
            lines: Vec::new(),
        });
        if let Some(tags) = &mut text.tags {
            // A word alone has no tag, though it has a last column.
            let tag = cell(columns.tag_column).filter(|_| cells.len() > 1);
            tags.push(tag.ok_or_else(|| broken("tag", columns.tag_column))?.to_owned());
        }
        text.words.push(word.to_owned());
        text.lines.push(number);
    }
    texts.extend(current);
    Ok(texts)
}

fn of_json(path: &Path, columns: &WordColumns, labelled: bool) -> Result<Vec<TaggedText>> {
    let names = [columns.words.as_str(), columns.tags.as_str()];
    let names = if labelled { &names[..] } else { &names[..1] };
    let mut reader = TableReader::open(path, names, names.len())?;
    let mut texts = Vec::new();
    while let Some(row) = reader.next_row()? {
        let list = |at: usize| {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let list = row.values[at].as_array().and_then(|all| all.iter().map(text).collect());
            let reason = || format!("has no list of texts in {:?}", names[at]);
            list.ok_or_else(|| bad_line(path, row.line, reason()))
        };
        let words: Vec<String> = list(0)?;
        let tags: Option<Vec<String>> = if labelled { Some(list(1)?) } else { None };
        if words.is_empty() || words.iter().any(|word| word.trim().is_empty()) {
            return Err(bad_line(path, row.line, "has an empty word, or none"));
        }
        if let Some(tags) = &tags
            && tags.len() != words.len()
        {
            let reason = format!("has {} words and {} tags", words.len(), tags.len());
            return Err(bad_line(path, row.line, reason));
        }
        let lines = vec![row.line; words.len()];
        texts.push(TaggedText { line: row.line, words, tags, lines });
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, labelled: bool) -> Result<Vec<TaggedText>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_words(&path, &WordColumns::default(), labelled)
    }

    #[test]
    fn columns_and_lists_give_the_same() {
        let columns = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP B-PER\n";
        let lists = "{\"tokens\":[\"EU\",\"rejects\"],\"tags\":[\"B-ORG\",\"O\"]}\n\
                     {\"tokens\":[\"Peter\"],\"tags\":[\"B-PER\"]}\n";
        let parts = |texts: Vec<TaggedText>| -> Vec<_> {
            texts.into_iter().map(|text| (text.words, text.tags)).collect()
        };
        let found = read("a.txt", columns, true).unwrap();
        assert_eq!(found[1].lines, [7]);
        assert_eq!(parts(found), parts(read("a.jsonl", lists, true).unwrap()));
        assert_eq!(read("a.txt", "EU\nrejects\n", false).unwrap()[0].tags, None);
    }

    #[test]
    fn broken_lines_are_told() {
        for (name, text, told) in [
            ("a.conll", "EU B-ORG\nrejects\n", "line 2 has 1 columns, and no tag in column -1"),
            ("a.jsonl", "{\"tokens\":[\"a\"],\"tags\":[]}\n", "line 1 has 1 words and 0 tags"),
            ("a.jsonl", "{\"tokens\":[\"a\"],\"tags\":[1]}\n", "no list of texts in \"tags\""),
            ("a.txt", "\n\n", "has no words"),
            ("a.csv", "a,b\n", "holds no words with tags"),
        ] {
            let error = read(name, text, true).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
