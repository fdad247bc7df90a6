//! Training WordPiece, BERT's kind of tokenizer. Source: Schuster and Nakajima 2012; Devlin et al.
//! 2018, <https://arxiv.org/abs/1810.04805>, section 3.
//!
//! The trainer of pairs in the `tokenizers` crate numbers the single characters in the order of a
//! randomly seeded hash map, and breaks ties between merges by those numbers. Here characters are
//! numbered beforehand, sorted, which leaves it nothing to decide by chance.

use std::collections::BTreeSet;

use ahash::AHashMap;
use compact_str::CompactString;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer,
};

use super::words::{MAX_CHARS, Run, Words};
use super::{MIN_FREQUENCY, ORIGIN, TokenizerTraining, alphabet};
use crate::error::Result;
use crate::tokenizer::bert_steps::{LongWords, with_steps};
use crate::tokenizer::{SpecialTokens, bad};

/// The words of a run: normalized, cut at punctuation.
pub(super) fn split(run: &Run) -> tokenizers::Result<Vec<CompactString>> {
    let mut normalized = NormalizedString::from(run.text.as_str());
    BertNormalizer::default().normalize(&mut normalized)?;
    let mut splits = PreTokenizedString::from(normalized);
    BertPreTokenizer.pre_tokenize(&mut splits)?;
    Ok(splits
        .get_splits(OffsetReferential::Normalized, OffsetType::Byte)
        .into_iter()
        .map(|(split, _, _)| CompactString::from(split))
        .collect())
}

pub(super) fn train(words: Words, training: &TokenizerTraining) -> Result<Tokenizer> {
    let room = training.vocab_size - SpecialTokens::TEXTS.len();
    let known = alphabet::choose(&words, training.character_coverage, room, true);
    let words = alphabet::keep_spellable(words, &known);
    let model = train_model(words, training.vocab_size)?;
    let long_words = LongWords::Split(MAX_CHARS);
    with_steps(ORIGIN, model, true, long_words, &SpecialTokens::TEXTS)
}

fn train_model(words: Words, vocab_size: usize) -> Result<WordPiece> {
    let mut numbered: Vec<String> = SpecialTokens::TEXTS.map(str::to_owned).to_vec();
    numbered.extend(single_characters(words.keys()));
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(MIN_FREQUENCY)
        .show_progress(false)
        .continuing_subword_prefix("##".into())
        .special_tokens(numbered.into_iter().map(|token| AddedToken::from(token, true)).collect())
        .build();
    let words: AHashMap<CompactString, u64> = words.into_iter().collect();
    let mut model = BPE::default();
    trainer.do_train(&words, &mut model).map_err(|error| bad(ORIGIN, error.to_string()))?;
    Ok(WordPiece::from_bpe(&model))
}

/// The one-character tokens of `words`, sorted: first those at words' begins, then those inside.
fn single_characters<'a>(words: impl Iterator<Item = &'a CompactString>) -> Vec<String> {
    let mut tokens = BTreeSet::new();
    for word in words {
        for (index, character) in word.chars().enumerate() {
            tokens.insert((index > 0, character));
        }
    }
    let text = |(inside, character)| match inside {
        false => format!("{character}"),
        true => format!("##{character}"),
    };
    tokens.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::train::test_tokenizer;

    #[test]
    fn words_are_lower_case_without_accents_and_cut_at_punctuation() {
        let run = Run { text: "Naïve-É's".into(), follows_space: true };
        assert_eq!(split(&run).unwrap(), ["naive", "-", "e", "'", "s"]);
    }

    #[test]
    fn tokens_begin_with_special_ones_then_sorted_characters() {
        let tokenizer = test_tokenizer();
        let tokens: Vec<String> = (0..8).map(|id| tokenizer.token(id).unwrap()).collect();
        assert_eq!(tokens[..5], SpecialTokens::TEXTS);
        assert_eq!(tokens[5..], ["#", "'", ","]);
        assert!(tokenizer.vocab_size() <= 200);
    }
}
