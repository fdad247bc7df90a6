//! Text by lines: plain text, Markdown and WikiText.
//!
//! A document's text is its lines without the spaces around them, joined by single spaces.

use std::io::Read;
use std::path::Path;

use super::fragment::{FRAGMENT_BYTES, Fragment, Fragments};
use super::{DocumentBreak, Documents};
use crate::error::Result;
use crate::text::LineBlocks;

/// Where documents begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineRule {
    /// Between lines, whatever they say.
    Plain(DocumentBreak),
    /// At headings, which begin with `#`, outside of code.
    Markdown,
    /// At headings between `=`. Merity et al. 2016, <https://arxiv.org/abs/1609.07843>: in the
    /// tokenized form, `@-@`, `@,@` and `@.@` stand for what joins a word or a number.
    WikiText,
}

/// The documents of one text, in fragments.
pub(super) struct Lines<R> {
    blocks: LineBlocks<R>,
    joiner: LineJoiner,
    at_end: bool,
}

impl<R: Read> Lines<R> {
    /// The documents that `reader` gives; `path` is for messages.
    pub(super) fn new(reader: R, path: &Path, rule: LineRule) -> Self {
        let joiner = LineJoiner::new(rule);
        Self { blocks: LineBlocks::new(reader, path), joiner, at_end: false }
    }
}

impl<R: Read + Send> Documents for Lines<R> {
    fn next_fragment(&mut self) -> Result<Option<Fragment>> {
        loop {
            if let Some(fragment) = self.joiner.fragments.pop() {
                return Ok(Some(fragment));
            }
            if self.at_end {
                return Ok(None);
            }
            match self.blocks.next_block()? {
                Some(block) => self.joiner.push(&block),
                None => {
                    self.joiner.end_document();
                    self.at_end = true;
                }
            }
        }
    }
}

/// Joins lines to documents.
#[derive(Debug)]
pub(super) struct LineJoiner {
    rule: LineRule,
    pub(super) fragments: Fragments,
    /// Whether the current line has text.
    line_has_text: bool,
    /// Spaces after that text, which count only if more text follows on the line.
    spaces: String,
    /// Whether the current line is one of Markdown's code.
    in_code: bool,
}

impl LineJoiner {
    pub(super) fn new(rule: LineRule) -> Self {
        let (fragments, spaces) = (Fragments::default(), String::new());
        Self { rule, fragments, line_has_text: false, spaces, in_code: false }
    }

    /// Appends whole lines. Only a very long one may come in several parts.
    pub(super) fn push(&mut self, lines: &str) {
        for part in lines.split_inclusive('\n') {
            let line = part.strip_suffix('\n').unwrap_or(part);
            match self.rule {
                LineRule::Plain(_) => self.push_within_line(line),
                LineRule::Markdown => self.push_markdown(line),
                LineRule::WikiText => self.push_wiki_text(line),
            }
            if line.len() < part.len() {
                self.end_line();
            }
        }
    }

    /// Ends the current document.
    pub(super) fn end_document(&mut self) {
        self.fragments.end_document();
        self.line_has_text = false;
        self.spaces.clear();
    }

    fn push_markdown(&mut self, line: &str) {
        let text = line.trim_start();
        if !self.line_has_text && (text.starts_with("```") || text.starts_with("~~~")) {
            self.in_code = !self.in_code;
        }
        let level = text.bytes().take_while(|&byte| byte == b'#').count();
        let is_heading = (1..=6).contains(&level) && text[level..].starts_with(' ');
        if is_heading && !self.in_code && !self.line_has_text {
            self.end_document();
        }
        self.push_within_line(line);
    }

    fn push_wiki_text(&mut self, line: &str) {
        match heading_level(line) {
            Some(level) if !self.line_has_text => {
                if level == 1 {
                    self.end_document();
                }
                self.push_within_line(line.trim_matches(['=', ' ', '\r']));
            }
            _ => {
                let joined = line.replace(" @-@ ", "-").replace(" @,@ ", ",");
                self.push_within_line(&joined.replace(" @.@ ", "."));
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
        let ends = match self.rule {
            LineRule::Plain(DocumentBreak::BlankLine) => !self.line_has_text,
            LineRule::Plain(DocumentBreak::Line) => true,
            LineRule::Plain(DocumentBreak::File) | LineRule::Markdown | LineRule::WikiText => false,
        };
        if ends {
            self.fragments.end_document();
        }
        self.line_has_text = false;
        self.spaces.clear();
    }
}

/// The level of one of WikiText's headings: of how many `=` on both sides, with spaces between.
pub(super) fn heading_level(line: &str) -> Option<usize> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let count = |words: &mut dyn Iterator<Item = &&str>| words.take_while(|w| **w == "=").count();
    let level = count(&mut words.iter());
    let closes = count(&mut words.iter().rev()) == level;
    (level > 0 && closes && words.len() > 2 * level).then_some(level)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn documents(rule: LineRule, parts: &[&str]) -> Vec<String> {
        let mut joiner = LineJoiner::new(rule);
        parts.iter().for_each(|part| joiner.push(part));
        joiner.end_document();
        std::iter::from_fn(|| joiner.fragments.pop()).map(|fragment| fragment.text).collect()
    }

    #[track_caller]
    fn check(rule: LineRule, text: &str, expected: &[&str]) {
        assert_eq!(documents(rule, &[text]), expected, "documents of {text:?}");
    }

    #[test]
    fn blank_lines_separate_documents() {
        let rule = LineRule::Plain(DocumentBreak::BlankLine);
        check(rule, "", &[]);
        check(rule, "\n \n\t\r\n", &[]);
        check(rule, "one", &["one"]);
        check(rule, "one\ntwo\n", &["one two"]);
        check(rule, "\n\none\n\ntwo\n\n\n", &["one", "two"]);
        check(rule, "one\r\nmore\r\n\r\ntwo", &["one more", "two"]);
        check(rule, "one\n \u{a0}\ntwo", &["one", "two"]);
        check(rule, "  one  two \n three", &["one  two three"]);
    }

    #[test]
    fn a_line_or_a_file_can_be_a_document() {
        check(LineRule::Plain(DocumentBreak::Line), "one\n\n two\nthree", &["one", "two", "three"]);
        check(LineRule::Plain(DocumentBreak::File), "one\n\n two\nthree", &["one two three"]);
    }

    #[test]
    fn headings_of_markdown_begin_documents_but_not_in_code() {
        let text = "intro\n\nmore\n# One\ntext\n```sh\n# no heading\n```\n#hashtag\n## Two\nend\n";
        let expected = ["intro more", "# One text ```sh # no heading ``` #hashtag", "## Two end"];
        check(LineRule::Markdown, text, &expected);
    }

    #[test]
    fn first_headings_of_wiki_text_begin_documents() {
        let text = " \n = Robert Boulter = \n \n He is 1 @,@ 000 and well @-@ known .\n \
                    = = Career = = \n In 2 @.@ 5 <unk> = 3 \n = Next = \n text\n";
        let expected =
            ["Robert Boulter He is 1,000 and well-known . Career In 2.5 <unk> = 3", "Next text"];
        check(LineRule::WikiText, text, &expected);
        for (line, level) in [
            (" = A = ", Some(1)),
            ("= = A b = =", Some(2)),
            ("= A", None),
            ("= =", None),
            ("", None),
        ] {
            assert_eq!(heading_level(line), level, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn where_parts_end_makes_no_difference(
            text in "[ab \t\r\n]{0,40}",
            cuts in prop::collection::vec(0usize..40, 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            let rule = LineRule::Plain(DocumentBreak::BlankLine);
            prop_assert_eq!(documents(rule, &parts), documents(rule, &[&text]));
        }
    }
}
