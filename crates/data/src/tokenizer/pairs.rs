//! Texts, or pairs of them, as models for tasks read them: cut to a length, with the text that each
//! token is of.

use tokenizers::{
    EncodeInput, Encoding, InputSequence, PreTokenizerWrapper, TruncationDirection,
    TruncationParams, TruncationStrategy,
};

use super::{ModelTokenizer, bad};
use crate::error::Result;

/// A text, or two, in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedText {
    /// Tokens, with those that the model expects around texts.
    pub ids: Vec<u32>,
    /// 0 for tokens of the first text, 1 for those of the second, where the tokenizer tells.
    pub types: Vec<u8>,
    /// The word that each token is of, where words were given; absent for special tokens.
    pub words: Vec<Option<u32>>,
    /// Whether tokens were cut off.
    pub is_cut: bool,
}

/// Encodes texts to at most so many tokens.
#[derive(Debug, Clone)]
pub struct PairTokenizer {
    tokenizer: ModelTokenizer,
}

impl ModelTokenizer {
    /// The same for texts of at most `longest` tokens, special ones included: of a pair, the longer
    /// text is cut first, as transformers has it with `truncation=True`.
    ///
    /// # Errors
    /// A length that special tokens alone exceed.
    pub fn with_longest(&self, longest: usize) -> Result<PairTokenizer> {
        let mut tokenizer = self.clone();
        let special = tokenizer.encode("")?.len().max(2);
        let refuse = |reason: String| bad(&self.origin, reason);
        if longest <= special + 1 {
            let reason = format!("{longest} tokens are too few: special tokens take {special}");
            return Err(refuse(reason));
        }
        let truncation = TruncationParams {
            max_length: longest,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: TruncationDirection::Right,
        };
        tokenizer
            .inner
            .with_truncation(Some(truncation))
            .map_err(|error| refuse(error.to_string()))?;
        Ok(PairTokenizer { tokenizer })
    }
}

impl PairTokenizer {
    /// The tokens of texts, each with or without a second one, on all cores.
    ///
    /// # Errors
    /// What the tokenizer's model refuses.
    pub fn encode(&self, texts: &[(&str, Option<&str>)]) -> Result<Vec<EncodedText>> {
        let inputs = texts.iter().map(|&(first, second)| match second {
            Some(second) => EncodeInput::Dual(first.into(), second.into()),
            None => EncodeInput::Single(first.into()),
        });
        let inner = &self.tokenizer.inner;
        self.encoded(inner.encode_batch_fast(inputs.collect(), true))
    }

    /// The tokens of texts that are given as words.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_words(&self, texts: &[&[String]]) -> Result<Vec<EncodedText>> {
        // Where a space is part of a word's tokens, words that are given apart have lost it.
        let is_byte_level = matches!(
            self.tokenizer.inner.get_pre_tokenizer(),
            Some(PreTokenizerWrapper::ByteLevel(_))
        );
        let word = |word: &String| match is_byte_level {
            true => format!(" {word}"),
            false => word.clone(),
        };
        let input = |words: &&[String]| {
            let words: Vec<String> = words.iter().map(word).collect();
            EncodeInput::Single(InputSequence::from(words))
        };
        // The fast way does not tell words.
        let inputs: Vec<_> = texts.iter().map(input).collect();
        self.encoded(self.tokenizer.inner.encode_batch(inputs, true))
    }

    fn encoded(&self, outcome: tokenizers::Result<Vec<Encoding>>) -> Result<Vec<EncodedText>> {
        let encoded = outcome
            .map_err(|error| bad(&self.tokenizer.origin, format!("can't encode: {error}")))?;
        let text = |encoding: &Encoding| EncodedText {
            ids: encoding.get_ids().to_vec(),
            types: encoding.get_type_ids().iter().map(|&kind| u8::from(kind > 0)).collect(),
            words: encoding.get_word_ids().to_vec(),
            is_cut: !encoding.get_overflowing().is_empty(),
        };
        Ok(encoded.iter().map(text).collect())
    }

    /// The tokenizer itself.
    pub fn tokenizer(&self) -> &ModelTokenizer {
        &self.tokenizer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_words_are_told_apart_and_cut() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##c\nd\n";
        std::fs::write(folder.path().join("vocab.txt"), vocabulary).unwrap();
        let tokenizer = ModelTokenizer::load(folder.path()).unwrap();
        let pairs = tokenizer.with_longest(6).unwrap();
        let found = pairs.encode(&[("a bc", Some("d")), ("a b a b a b", None)]).unwrap();
        assert_eq!(found[0].ids.len(), 6, "{found:?}");
        assert!(found[0].is_cut && found[1].is_cut);
        assert_eq!(found[0].types, [0, 0, 0, 0, 1, 1]);
        let words = ["a", "bc", "d"].map(str::to_owned);
        let found = pairs.encode_words(&[&words]).unwrap();
        let expected = [None, Some(0), Some(1), Some(1), Some(2), None];
        assert_eq!(found[0].words, expected, "{found:?}");
        assert!(!found[0].is_cut);
        assert!(tokenizer.with_longest(3).is_err());
    }
}
