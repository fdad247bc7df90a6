//! Encoding a corpus: the same ids as [`TextTokenizer::encode`], each word looked up only once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::TextTokenizer;
use crate::corpus::Fragment;
use crate::error::Result;
use crate::random::unit_hash_of_text;

/// Words remembered by a thread. Frequent words come early, so that those beyond are rare.
const CACHE_WORDS: usize = 1 << 20;

/// Cuts at ASCII spaces, tabs and line ends; nothing else is a space to every normalizer.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', '\t', '\n', '\r']).filter(|word| !word.is_empty())
}

/// Fragments of documents as tokens, end to end.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct EncodedFragments {
    tokens: Vec<u32>,
    /// Where each fragment ends in `tokens`, and its [chance](EncodedFragment::begins_document).
    ends: Vec<(usize, Option<f64>)>,
}

/// A document as tokens, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct EncodedFragment<'a> {
    pub(crate) tokens: &'a [u32],
    /// Where a document begins, a number in `[0, 1)` that looks random and depends on its text
    /// alone: on its first 64 KiB.
    pub(crate) begins_document: Option<f64>,
}

impl EncodedFragments {
    /// The fragments, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = EncodedFragment<'_>> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|&(end, _)| end));
        starts.zip(&self.ends).map(|(start, &(end, begins_document))| EncodedFragment {
            tokens: &self.tokens[start..end],
            begins_document,
        })
    }
}

/// Encodes fragments, each by itself.
pub(crate) fn encode_fragments(
    tokenizer: &TextTokenizer,
    caches: &CacheStore,
    fragments: &[Fragment],
) -> Result<EncodedFragments> {
    let mut encoded = EncodedFragments::default();
    let mut cache = caches.take();
    let by_word = tokenizer.splits_at_spaces();
    for fragment in fragments {
        if by_word {
            for word in words(&fragment.text) {
                cache.encode(tokenizer, word, &mut encoded.tokens)?;
            }
        } else {
            encoded.tokens.extend(tokenizer.encode(&fragment.text)?);
        }
        let chance = fragment.begins_document.then(|| unit_hash_of_text(&fragment.text));
        encoded.ends.push((encoded.tokens.len(), chance));
    }
    caches.give_back(cache);
    Ok(encoded)
}

/// Word caches that are not in use now. Each thread takes one, and so none waits for another.
#[derive(Default)]
pub(crate) struct CacheStore {
    idle: Mutex<Vec<WordCache>>,
}

impl CacheStore {
    fn take(&self) -> WordCache {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, cache: WordCache) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(cache);
    }
}

/// Ids of words seen before.
#[derive(Default)]
struct WordCache {
    /// Word to its range in `ids`.
    ranges: HashMap<Box<str>, (u32, u32)>,
    ids: Vec<u32>,
}

impl WordCache {
    fn encode(&mut self, tokenizer: &TextTokenizer, word: &str, out: &mut Vec<u32>) -> Result<()> {
        if let Some(&(start, end)) = self.ranges.get(word) {
            out.extend_from_slice(&self.ids[start as usize..end as usize]);
            return Ok(());
        }
        let ids = tokenizer.encode(word)?;
        out.extend_from_slice(&ids);
        if self.ranges.len() < CACHE_WORDS && word.len() <= 64 {
            let start = self.ids.len() as u32;
            self.ids.extend_from_slice(&ids);
            self.ranges.insert(word.into(), (start, self.ids.len() as u32));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::train::test_tokenizer;

    /// Spaces, line ends, controls, punctuation, accents, marks, other scripts and special tokens.
    const PIECES: &[&str] = &[
        " ", "\t", "\n", "\r\n", "\u{a0}", "\u{85}", "\u{b}", "\u{2028}", "\u{3000}", "\u{200b}",
        "\u{301}", "\u{fffd}", "a", "cat", "Sat", "mat", "é", "É", "e\u{301}", "ǅ", "İ", "ß", "Σ",
        "中", "文", "한", "ﬁ", "😀", ".", ",", "'", "-", "¿", "[MASK]", "[PAD]", "[", "]", "##",
        "9",
    ];

    fn check_encoding(text: &str) {
        let tokenizer = test_tokenizer();
        assert!(tokenizer.splits_at_spaces());
        check_encoding_by(&tokenizer, text);
    }

    fn check_encoding_by(tokenizer: &TextTokenizer, text: &str) {
        let expected = tokenizer.encode(text).unwrap();
        let caches = CacheStore::default();
        let fragment = Fragment { text: text.to_owned(), begins_document: true };
        for _ in 0..2 {
            let encoded =
                encode_fragments(tokenizer, &caches, std::slice::from_ref(&fragment)).unwrap();
            assert_eq!(encoded.iter().next().unwrap().tokens, expected, "tokens of {text:?}");
        }
    }

    #[test]
    fn words_that_no_token_spans_are_encoded_alone() {
        check_encoding("");
        check_encoding("The cat sat. A mat [MASK] [SEP]mat\u{301} \u{85} x\u{85}y");
        check_encoding(&"a".repeat(300));
        check_encoding("cat \u{200b} mat");
    }

    #[test]
    fn tokens_that_span_words_are_found() {
        let json = test_tokenizer().to_json().unwrap();
        let special = r#"{"id":0,"content":"[PAD]""#;
        let size = test_tokenizer().vocab_size();
        let added = format!(
            r#"{{"id":{size},"content":"cat sat","single_word":false,"lstrip":false,
            "rstrip":false,"normalized":true,"special":false}},{special}"#
        );
        let spanning = json.replace(special, &added);
        let other_steps = json.replace("BertPreTokenizer", "WhitespaceSplit");
        for json in [spanning, other_steps] {
            let tokenizer = TextTokenizer::from_json("t.json".as_ref(), json.as_bytes()).unwrap();
            assert!(!tokenizer.splits_at_spaces());
            check_encoding_by(&tokenizer, "The cat sat on. a mat. A cat sat.");
        }
    }

    proptest! {
        #[test]
        fn encoding_by_word_equals_encoding_the_document(
            pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)
        ) {
            check_encoding(&pieces.concat());
        }

        #[test]
        fn encoding_by_word_equals_encoding_any_text(text in "\\PC{0,40}") {
            check_encoding(&text);
        }
    }
}
