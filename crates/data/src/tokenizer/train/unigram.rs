//! Training a Unigram vocabulary, T5's kind of tokenizer. Source: Kudo 2018,
//! <https://arxiv.org/abs/1804.10959>.
//!
//! Ids are T5's: `<pad>`, `</s>`, `<unk>`, pieces of text, and the sentinels at the end, the first
//! of which is the last token.
//!
//! The trainer of the `tokenizers` crate adds up floats thread by thread, and gives single
//! characters that it lost their scores in the order of a randomly seeded hash map. Here it runs
//! in one thread on sorted words, and those scores are given anew.

use compact_str::CompactString;
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::normalizers::unicode::NFKC;
use tokenizers::{AddedToken, NormalizedString, Normalizer, Tokenizer};

use super::alphabet::{self, Alphabet};
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
/// The least counts that the trainer can sum up are of 32 bits.
const MAX_COUNT_SUM: u64 = u32::MAX as u64 / 2;

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
    let trained = train_pieces(words, pieces, known)?;
    let (first, rest) = trained.split_at(FIRST.len());
    let bytes = (0..bytes).map(|byte| (byte_token(byte as u8), NEVER));
    let vocabulary = first.iter().cloned().chain(bytes).chain(rest.iter().cloned()).collect();
    let model =
        Unigram::from(vocabulary, Some(2), training.byte_fallback).map_err(|error| fail(&error))?;
    let special = FIRST.map(str::to_owned).into_iter();
    let special = special.chain((0..SENTINELS).rev().map(sentinel)).collect();
    with_steps(ORIGIN, model, vec![NFKC.into()], special, Vec::new())
}

/// [`FIRST`], and the most useful pieces of `words`, `count` in all.
fn train_pieces(words: Words, count: usize, alphabet: Alphabet) -> Result<Vec<(String, f64)>> {
    let fail = |error: &dyn std::fmt::Display| bad(ORIGIN, error.to_string());
    let trainer = UnigramTrainer::builder()
        .show_progress(false)
        .vocab_size(count as u32)
        .seed_size(SEEDS_PER_TOKEN * count)
        .initial_alphabet(alphabet.into_iter().collect())
        .special_tokens(FIRST.map(|text| AddedToken::from(text, true)).to_vec())
        .unk_token(Some(FIRST[2].to_owned()))
        .build()
        .map_err(|error| fail(&error))?;
    let sentences = most_frequent(words, count);
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|error| fail(&error))?;
    let mut model = Unigram::default();
    pool.install(|| trainer.do_train(sentences, &mut model).map(drop))
        .map_err(|error| fail(&error))?;
    Ok(ordered(&model))
}

/// The most frequent words, as many as `tokens` pieces are trained on, with counts that stay below
/// the trainer's limit. Of those that are equally frequent, a hash chooses.
fn most_frequent(words: Words, tokens: usize) -> Vec<(String, u32)> {
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
    let total: u64 = words.iter().map(|(_, count)| count).sum();
    let share = total.div_ceil(MAX_COUNT_SUM).max(1);
    words.sort();
    let scaled = |count: u64| u32::try_from(count.div_ceil(share)).unwrap_or(u32::MAX);
    words.into_iter().map(|(word, count)| (word.into(), scaled(count))).collect()
}

/// The trained pieces, most likely first, those that are equally likely by their text.
///
/// Characters that got lost in training have scores from the least one upwards, by chance; sorted,
/// they share the same scores out.
fn ordered(model: &Unigram) -> Vec<(String, f64)> {
    let all: Vec<(String, f64)> = model.iter().cloned().collect();
    let (first, trained) = all.split_at(FIRST.len().min(all.len()));
    let least = trained.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let mut ladder = least;
    let mut rungs = Vec::new();
    // As the trainer adds them up: the least, and ever another step.
    let mut steps = 0.0;
    while trained.iter().any(|(text, score)| *score == ladder && text.chars().count() == 1) {
        rungs.push(ladder);
        steps += 0.0001;
        ladder = least + steps;
    }
    let is_lost =
        |(text, score): &(String, f64)| text.chars().count() == 1 && rungs.contains(score);
    let mut lost: Vec<(String, f64)> =
        trained.iter().filter(|piece| is_lost(piece)).cloned().collect();
    let mut scores: Vec<f64> = lost.iter().map(|(_, score)| *score).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    lost.sort_by(|a, b| a.0.cmp(&b.0));
    for ((_, score), other) in lost.iter_mut().zip(scores) {
        *score = other;
    }
    let mut pieces: Vec<(String, f64)> =
        trained.iter().filter(|piece| !is_lost(piece)).cloned().chain(lost).collect();
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let first = first.iter().map(|(text, _)| (text.clone(), NEVER));
    first.chain(pieces).collect()
}
