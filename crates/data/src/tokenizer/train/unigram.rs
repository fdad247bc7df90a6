//! Training a Unigram vocabulary, T5's kind of tokenizer. Source: Kudo 2018,
//! <https://arxiv.org/abs/1804.10959>.
//!
//! Ids are T5's: `<pad>`, `</s>`, `<unk>`, pieces of text, and the sentinels at the end, the first
//! of which is the last token.

use compact_str::CompactString;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::unicode::NFKC;
use tokenizers::{NormalizedString, Normalizer, Tokenizer};

use super::alphabet;
use super::pieces::{CountedWord, train_pieces};
use super::words::{Run, Words};
use super::{ORIGIN, TokenizerTraining};
use crate::error::Result;
use crate::random::unit_hash_of_text;
use crate::tokenizer::bad;
use crate::tokenizer::objective::{SENTINELS, sentinel};
use crate::tokenizer::sentence_piece::{byte_token, with_steps};

/// `<pad>`, `</s>` and `<unk>`.
const FIRST: [&str; 3] = ["<pad>", "</s>", "<unk>"];
/// The most frequent words are looked at: so many of them, of so many characters, for each token.
const WORDS_PER_TOKEN: usize = 8;
const CHARS_PER_TOKEN: usize = 64;
/// Pieces to begin with, for each token.
const SEEDS_PER_TOKEN: usize = 10;
/// What begins a word.
const SPACE: &str = "\u{2581}";
/// Of tokens that are no text: text that looks like one is spelled otherwise, if its characters
/// are known.
const NEVER: f64 = -1000.0;

/// The words of a run in compatible normal form, each with the space before it.
pub(super) fn split(run: &Run) -> tokenizers::Result<Vec<CompactString>> {
    let mut normalized = NormalizedString::from(run.text.as_str());
    NFKC.normalize(&mut normalized)?;
    let words = normalized.get().split_whitespace().enumerate();
    let with_space = |(index, word)| {
        let space = if index > 0 || run.follows_space { SPACE } else { "" };
        CompactString::from(format!("{space}{word}"))
    };
    Ok(words.map(with_space).collect())
}

/// The tokens that spell `words` best.
pub(super) fn train(words: Words, training: &TokenizerTraining) -> Result<Tokenizer> {
    let fail = |error: &dyn std::fmt::Display| bad(ORIGIN, error.to_string());
    let bytes = if training.byte_fallback { 256 } else { 0 };
    let pieces = training.vocab_size - SENTINELS - bytes;
    let room = pieces - FIRST.len();
    let mut known = alphabet::choose(&words, training.character_coverage, room, false);
    known.extend(SPACE.chars());
    let words = alphabet::keep_spellable(words, &known);
    let words = most_frequent(words, pieces);
    let trained = train_pieces(&words, &known, (room, SEEDS_PER_TOKEN * pieces));
    let first = FIRST.map(|text| (text.to_owned(), NEVER));
    let bytes = (0..bytes).map(|byte| (byte_token(byte as u8), NEVER));
    let vocabulary = first.into_iter().chain(bytes).chain(trained).collect();
    let model =
        Unigram::from(vocabulary, Some(2), training.byte_fallback).map_err(|error| fail(&error))?;
    let special = FIRST.map(str::to_owned).into_iter();
    let special = special.chain((0..SENTINELS).rev().map(sentinel)).collect();
    with_steps(ORIGIN, model, vec![NFKC.into()], special, Vec::new())
}

/// The most frequent words, as many as `tokens` pieces are trained on. Of those that are equally
/// frequent, a hash chooses.
fn most_frequent(words: Words, tokens: usize) -> Vec<CountedWord> {
    let mut words: Vec<(CompactString, u64)> = words.into_iter().collect();
    words.sort_by_cached_key(|(word, count)| {
        (std::cmp::Reverse(*count), unit_hash_of_text(word).to_bits())
    });
    words.truncate(WORDS_PER_TOKEN * tokens);
    let mut characters = 0;
    words.retain(|(word, _)| {
        characters += word.chars().count();
        characters <= CHARS_PER_TOKEN * tokens
    });
    words.sort();
    words.iter().map(|(word, count)| CountedWord::new(word, *count)).collect()
}
