//! WordNet: one line per meaning, whose words and gloss make a document.

use std::path::Path;

use super::read_text;
use crate::error::Result;

/// The meanings of the unpacked package.
pub(super) fn read(unpacked: &Path) -> Result<Vec<String>> {
    let mut documents = Vec::new();
    for part_of_speech in ["noun", "verb", "adj", "adv"] {
        let path = unpacked.join("package/dict").join(format!("data.{part_of_speech}"));
        documents.extend(read_text(&path)?.lines().filter_map(meaning));
    }
    Ok(documents)
}

/// `words: gloss`, from a line in the form of wndb(5WN); the licence at the top has none.
fn meaning(line: &str) -> Option<String> {
    let (fields, gloss) = line.split_once(" | ")?;
    let mut fields = fields.split(' ').skip(3);
    let count = usize::from_str_radix(fields.next()?, 16).ok()?;
    let words: Vec<String> = fields.step_by(2).take(count).map(word).collect();
    Some(format!("{}: {}", words.join(", "), gloss.trim()))
}

/// `physical_entity` without the marker of an adjective's place, as in `galore(ip)`.
fn word(field: &str) -> String {
    field.split('(').next().unwrap_or(field).replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_gloss_are_taken_from_a_line() {
        let line = "00002137 03 n 02 abstraction 0 abstract_entity 0 010 @ 00001740 n 0000 \
             + 00694095 v 0101 | a general concept; \"truth\"  ";
        let expected = "abstraction, abstract entity: a general concept; \"truth\"";
        assert_eq!(meaning(line).unwrap(), expected);
        let adjective = "00014490 00 s 01 galore(ip) 0 001 & 00013887 a 0000 | in numbers";
        assert_eq!(meaning(adjective).unwrap(), "galore: in numbers");
    }

    #[test]
    fn lines_without_a_meaning_are_passed_over() {
        assert_eq!(meaning("  1 This software and database is being provided to you"), None);
        assert_eq!(meaning("00001740 03 n xx entity 0 003 | a gloss"), None);
    }
}
