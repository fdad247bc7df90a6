//! Encoding a corpus: the same ids as [`TextTokenizer::encode`], each word looked up only once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::TextTokenizer;
use crate::corpus::{documents, joined};
use crate::error::Result;

/// Words remembered by a thread. Frequent words come early, so that those beyond are rare.
const CACHE_WORDS: usize = 1 << 20;

/// Cuts at ASCII spaces, tabs and line ends; nothing else is a space to every normalizer.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', '\t', '\n', '\r']).filter(|word| !word.is_empty())
}

/// Documents as tokens, end to end.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct EncodedDocuments {
    tokens: Vec<u32>,
    /// Where each document ends in `tokens`; none is empty.
    ends: Vec<usize>,
}

impl EncodedDocuments {
    /// The tokens of each document.
    pub(crate) fn documents(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.tokens[start..end])
    }
}

/// Encodes the documents in `text`, leaving out those without a token.
pub(crate) fn encode_chunk(
    tokenizer: &TextTokenizer,
    caches: &CacheStore,
    text: &str,
) -> Result<EncodedDocuments> {
    let mut encoded = EncodedDocuments::default();
    let mut cache = caches.take();
    let by_word = tokenizer.splits_at_spaces();
    for document in documents(text) {
        if by_word {
            for word in words(document) {
                cache.encode(tokenizer, word, &mut encoded.tokens)?;
            }
        } else {
            encoded.tokens.extend(tokenizer.encode(&joined(document))?);
        }
        if encoded.tokens.len() > encoded.ends.last().copied().unwrap_or(0) {
            encoded.ends.push(encoded.tokens.len());
        }
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
        let expected: Vec<Vec<u32>> = documents(text)
            .map(|document| tokenizer.encode(&joined(document)).unwrap())
            .filter(|tokens| !tokens.is_empty())
            .collect();
        let caches = CacheStore::default();
        for _ in 0..2 {
            let encoded = encode_chunk(tokenizer, &caches, text).unwrap();
            let found: Vec<Vec<u32>> = encoded.documents().map(<[u32]>::to_vec).collect();
            assert_eq!(found, expected, "tokens of {text:?}");
        }
    }

    #[test]
    fn words_that_no_token_spans_are_encoded_alone() {
        check_encoding("");
        check_encoding("The cat sat.\n\nA mat [MASK] [SEP]mat\u{301} \u{85} x\u{85}y");
        check_encoding(&"a".repeat(300));
        // A document whose only character is removed has no token and is left out.
        check_encoding("cat\n\n\u{200b}\n\nmat");
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
            let tokenizer = TextTokenizer::from_bytes("t.json".as_ref(), json.as_bytes()).unwrap();
            assert!(!tokenizer.splits_at_spaces());
            check_encoding_by(&tokenizer, "The cat\nsat on. a mat.\n\nA cat sat.\n");
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
