//! The Brown corpus: 500 files of tagged words, `The/at jury/nn said/vbd ,/,`.

use std::path::Path;

use super::{files_in, read_text};
use crate::error::Result;

/// The texts of the unpacked package, a sentence a line.
pub(super) fn read(unpacked: &Path) -> Result<Vec<String>> {
    let files = files_in(&unpacked.join("package"), is_text)?;
    files.iter().map(|path| Ok(text(&read_text(path)?))).collect()
}

/// `ca01` to `cr09`: c, the genre's letter, a number of two digits.
fn is_text(name: &str) -> bool {
    matches!(name.as_bytes(), [b'c', b'a'..=b'r', b'0'..=b'9', b'0'..=b'9'])
}

fn text(tagged: &str) -> String {
    tagged.lines().map(sentence).collect::<Vec<_>>().join("\n")
}

/// The words of a tagged sentence, spaced as in print.
fn sentence(tagged: &str) -> String {
    let mut sentence = String::new();
    let mut last = "";
    let mut opened = true;
    for token in tagged.split_whitespace() {
        let word = token.rsplit_once('/').map_or(token, |(word, _tag)| word);
        // The corpus ends a question, a cry and a clause with the mark written twice.
        if matches!(word, "?" | "!" | ";") && word == last {
            continue;
        }
        let closes = matches!(word, "." | "," | ";" | ":" | "?" | "!" | ")" | "]" | "}" | "''");
        if !(opened || closes) {
            sentence.push(' ');
        }
        sentence.push_str(match word {
            "``" | "''" => "\"",
            word => word,
        });
        opened = matches!(word, "``" | "(" | "[" | "{" | "$");
        last = word;
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_go_and_punctuation_stands_as_in_print() {
        for (tagged, expected) in [
            (
                "\tThe/at Jury/nn-tl said/vbd ``/`` no/at evidence/nn ''/'' ,/, yet/rb ./.",
                "The Jury said \"no evidence\", yet.",
            ),
            ("Is/bez it/pps ?/. ?/.", "Is it?"),
            (
                "He/pps left/vbd ;/. ;/. she/pps (/( too/ql )/) stayed/vbd ./.",
                "He left; she (too) stayed.",
            ),
            ("Atlanta's/np$ 1/2/cd share/nn --/-- so/rb", "Atlanta's 1/2 share -- so"),
            ("", ""),
        ] {
            assert_eq!(sentence(tagged), expected);
        }
    }

    #[test]
    fn only_the_texts_are_read() {
        assert!(is_text("ca01") && is_text("cr09"));
        assert!(!is_text("cats.txt") && !is_text("README") && !is_text("ca0"));
    }
}
