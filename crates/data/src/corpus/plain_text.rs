//! Plain text: a document is a run of lines, and blank lines separate documents.
//!
//! A document's text is its lines without the spaces around them, joined by single spaces.

use std::io::Read;
use std::path::Path;

use super::fragment::{FRAGMENT_BYTES, Fragment, Fragments};
use crate::error::Result;
use crate::text::TextBlocks;

/// The documents of one text, in fragments.
pub(super) struct PlainText<R> {
    blocks: TextBlocks<R>,
    lines: LineJoiner,
    at_end: bool,
}

impl<R: Read> PlainText<R> {
    /// The documents that `reader` gives; `path` is for messages.
    pub(super) fn new(reader: R, path: &Path) -> Self {
        Self { blocks: TextBlocks::new(reader, path), lines: LineJoiner::default(), at_end: false }
    }

    /// The next fragment, or `None` at the end.
    ///
    /// # Errors
    /// A file that can't be read; bytes that are no text.
    pub(super) fn next_fragment(&mut self) -> Result<Option<Fragment>> {
        loop {
            if let Some(fragment) = self.lines.fragments.pop() {
                return Ok(Some(fragment));
            }
            if self.at_end {
                return Ok(None);
            }
            match self.blocks.next_block()? {
                Some(block) => self.lines.push(&block),
                None => {
                    self.lines.fragments.end_document();
                    self.at_end = true;
                }
            }
        }
    }

    /// Bytes of the text that were read so far.
    pub(super) fn offset(&self) -> u64 {
        self.blocks.offset()
    }
}

/// Joins lines to documents. Lines may come in any number of parts.
#[derive(Debug, Default)]
struct LineJoiner {
    fragments: Fragments,
    /// Whether the current line has text.
    line_has_text: bool,
    /// Spaces after that text, which count only if more text follows on the line.
    spaces: String,
}

impl LineJoiner {
    fn push(&mut self, block: &str) {
        for part in block.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(rest) => {
                    self.push_within_line(rest);
                    self.end_line();
                }
                None => self.push_within_line(part),
            }
        }
    }

    fn push_within_line(&mut self, part: &str) {
        let part = if self.line_has_text { part } else { part.trim_start() };
        let text = part.trim_end();
        if text.is_empty() {
            // Spaces without end are no more spaces than many.
            if self.spaces.len() + part.len() <= FRAGMENT_BYTES {
                self.spaces.push_str(part);
            }
            return;
        }
        if !self.line_has_text && !self.fragments.is_at_start() {
            self.fragments.push(" ");
        }
        self.fragments.push(&self.spaces);
        self.fragments.push(text);
        self.line_has_text = true;
        self.spaces.clear();
        self.spaces.push_str(&part[text.len()..]);
    }

    fn end_line(&mut self) {
        if !self.line_has_text {
            self.fragments.end_document();
        }
        self.line_has_text = false;
        self.spaces.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn documents(parts: &[&str]) -> Vec<String> {
        let mut joiner = LineJoiner::default();
        parts.iter().for_each(|part| joiner.push(part));
        joiner.fragments.end_document();
        std::iter::from_fn(|| joiner.fragments.pop()).map(|fragment| fragment.text).collect()
    }

    #[test]
    fn blank_lines_separate_documents() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(documents(&[text]), expected, "documents of {text:?}");
        };
        check("", &[]);
        check("\n \n\t\r\n", &[]);
        check("one", &["one"]);
        check("one\ntwo\n", &["one two"]);
        check("\n\none\n\ntwo\n\n\n", &["one", "two"]);
        check("one\r\nmore\r\n\r\ntwo", &["one more", "two"]);
        check("one\n \u{a0}\ntwo", &["one", "two"]);
        check("  one  two \n three", &["one  two three"]);
    }

    proptest! {
        #[test]
        fn where_blocks_end_makes_no_difference(text in "[ab \t\r\n]{0,40}", cuts in prop::collection::vec(0usize..40, 0..4)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            prop_assert_eq!(documents(&parts), documents(&[&text]));
        }
    }
}
