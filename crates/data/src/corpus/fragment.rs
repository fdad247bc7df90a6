//! Documents in fragments of bounded size.
//!
//! Most documents are one fragment. A longer one is cut before spaces, where no tokenizer of ours
//! joins what is before and after, so that its fragments have the tokens of the whole. Only a run
//! of [`FRAGMENT_BYTES`] without a space is cut within a word.

use std::collections::VecDeque;

/// The most bytes of a fragment.
pub(crate) const FRAGMENT_BYTES: usize = 64 << 10;

/// A document, or a part of a long one. Its parts, put together, are its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Text without line ends, not empty.
    pub(crate) text: String,
    /// Whether a document begins here; else this goes on with the one before.
    pub(crate) begins_document: bool,
}

/// Takes the text of documents, and gives fragments.
#[derive(Debug)]
pub(super) struct Fragments {
    limit: usize,
    /// Text of the current document that is in no fragment yet.
    text: String,
    /// Whether all of the current document is in `text`.
    whole: bool,
    ready: VecDeque<Fragment>,
}

impl Default for Fragments {
    fn default() -> Self {
        Self::with_limit(FRAGMENT_BYTES)
    }
}

impl Fragments {
    /// Fragments of at most `limit` bytes, and at least 4.
    pub(super) fn with_limit(limit: usize) -> Self {
        Self { limit: limit.max(4), text: String::new(), whole: true, ready: VecDeque::new() }
    }

    /// Appends to the current document.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        if self.text.len() <= self.limit {
            return;
        }
        let mut start = 0;
        while self.text.len() - start > self.limit {
            let end = start + cut(&self.text[start..], self.limit);
            let part = self.text[start..end].to_owned();
            self.give(part);
            start = end;
        }
        self.text.drain(..start);
    }

    /// Whether the current document has no text yet.
    pub(super) fn is_at_start(&self) -> bool {
        self.whole && self.text.is_empty()
    }

    /// Ends the current document.
    pub(super) fn end_document(&mut self) {
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.give(text);
        }
        self.whole = true;
    }

    /// The next fragment that is whole.
    pub(super) fn pop(&mut self) -> Option<Fragment> {
        self.ready.pop_front()
    }

    fn give(&mut self, text: String) {
        self.ready.push_back(Fragment { text, begins_document: self.whole });
        self.whole = false;
    }
}

/// Where a text longer than `limit` is cut: before the last space that follows something else,
/// or between two characters.
fn cut(text: &str, limit: usize) -> usize {
    let bytes = &text.as_bytes()[..=limit];
    let before_space = |&at: &usize| bytes[at] == b' ' && !matches!(bytes[at - 1], b' ' | b'\t');
    (1..bytes.len()).rev().find(before_space).unwrap_or_else(|| text.floor_char_boundary(limit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fragments(limit: usize, documents: &[&str]) -> Vec<(String, bool)> {
        let mut fragments = Fragments::with_limit(limit);
        for document in documents {
            fragments.push(document);
            fragments.end_document();
        }
        std::iter::from_fn(|| fragments.pop()).map(|f| (f.text, f.begins_document)).collect()
    }

    #[test]
    fn long_documents_are_cut_before_spaces() {
        let found = fragments(8, &["one two three", "four", "abcdefghijklmnopqrst"]);
        let expected = [
            ("one two", true),
            (" three", false),
            ("four", true),
            ("abcdefgh", true),
            ("ijklmnop", false),
            ("qrst", false),
        ];
        assert_eq!(found, expected.map(|(text, begins)| (text.to_owned(), begins)));
    }

    proptest! {
        #[test]
        fn nothing_is_lost(
            documents in prop::collection::vec("[ab 中😀]{1,40}", 0..6),
            limit in 4usize..20,
        ) {
            let given: Vec<&str> = documents.iter().map(String::as_str).collect();
            let mut joined: Vec<String> = Vec::new();
            for (text, begins) in fragments(limit, &given) {
                prop_assert!(!text.is_empty() && text.len() <= limit);
                match joined.last_mut() {
                    Some(last) if !begins => last.push_str(&text),
                    _ => joined.push(text),
                }
            }
            prop_assert_eq!(joined, documents);
        }
    }
}
