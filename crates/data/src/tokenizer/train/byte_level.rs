//! Training byte-level pairs, GPT-2's kind of tokenizer. Source: Radford et al. 2019, section 2.2.
//!
//! The end of a text is token 0; the 256 bytes come next, so that the trainer has nothing to
//! number by chance.

use std::collections::BTreeSet;

use ahash::AHashMap;
use compact_str::CompactString;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer,
};

use super::words::{Run, Words};
use super::{MIN_FREQUENCY, ORIGIN};
use crate::error::Result;
use crate::tokenizer::bad;
use crate::tokenizer::byte_level::{END_OF_TEXT, with_steps};

/// What GPT-2's rules make of a run with the space before it.
pub(super) fn split(run: &Run) -> tokenizers::Result<Vec<CompactString>> {
    let space = if run.follows_space { " " } else { "" };
    let mut splits = PreTokenizedString::from(format!("{space}{}", run.text));
    ByteLevel::new(false, true, true).pre_tokenize(&mut splits)?;
    Ok(splits
        .get_splits(OffsetReferential::Normalized, OffsetType::Byte)
        .into_iter()
        .map(|(split, _, _)| CompactString::from(split))
        .collect())
}

/// Merges the most frequent pairs in `words` until there are `vocab_size` tokens.
pub(super) fn train(words: Words, vocab_size: usize) -> Result<Tokenizer> {
    let bytes: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
    let first = std::iter::once(END_OF_TEXT.to_owned()).chain(bytes.iter().map(char::to_string));
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(MIN_FREQUENCY)
        .show_progress(false)
        .special_tokens(first.map(|token| AddedToken::from(token, true)).collect())
        .build();
    let words: AHashMap<CompactString, u64> = words.into_iter().collect();
    let mut model = BPE::default();
    trainer.do_train(&words, &mut model).map_err(|error| bad(ORIGIN, error.to_string()))?;
    with_steps(ORIGIN, model, false)
}
