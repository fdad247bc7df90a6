//! Training a vocabulary, the same on every machine and with any number of threads: what the kinds
//! of tokenizers share, and WordPiece.
//!
//! The trainer of pairs in the `tokenizers` crate numbers the single characters in the order of a
//! randomly seeded hash map, and breaks ties between merges by those numbers. Here characters are
//! numbered beforehand, sorted, which leaves it nothing to decide by chance.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ahash::AHashMap;
use compact_str::CompactString;
use rayon::prelude::*;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer, decoders,
};

use super::encoder::words;
use super::{Objective, SpecialTokens, TextTokenizer, bad, train_byte_level, train_unigram};
use crate::corpus::{Chunk, Corpus};
use crate::error::{Error, Result};
use crate::ordered_parallel::ordered_parallel;
use crate::progress::{Meter, Phase};
use crate::random::unit_hash;

/// BERT's limit; rarer characters are mostly of other scripts.
const MAX_ALPHABET: usize = 1000;
/// Pairs seen less often are not merged, as in BERT's trainer.
pub(super) const MIN_FREQUENCY: u64 = 2;
/// Longer words are `[UNK]` anyway: WordPiece's `max_input_chars_per_word`.
const MAX_WORD_CHARS: usize = 100;
/// Of a larger corpus, a sample of about this size is counted.
const SAMPLE_BYTES: u64 = 200 << 20;
pub(super) const ORIGIN: &str = "to be trained";

type Counts = HashMap<CompactString, u64>;

/// Words and how often they occur, in an order that depends on nothing else.
pub(super) type Words = BTreeMap<CompactString, u64>;

/// Trains a tokenizer of at most `vocab_size` tokens on `corpus`: WordPiece of lower-cased text,
/// byte-level pairs, or Unigram, as the objective has it.
///
/// The result depends on the text, the objective and `vocab_size` alone. It is smaller than asked
/// for where the corpus has too few words that occur more than once.
///
/// # Errors
/// A `vocab_size` below [`Objective::min_vocab_size`]; a corpus that can't be read or has no
/// words.
pub fn train_tokenizer(
    corpus: &Corpus,
    objective: Objective,
    vocab_size: usize,
    progress: &mut dyn FnMut(crate::Progress),
) -> Result<TextTokenizer> {
    let least = objective.min_vocab_size();
    if vocab_size < least || vocab_size > u32::MAX as usize {
        let expected = format!("a number from {least} to {}", u32::MAX);
        return Err(Error::setting("the vocabulary size to train", vocab_size, expected));
    }
    let raw = count_words(corpus, progress)?;
    let words = split_words(raw, objective)?;
    if words.is_empty() {
        return Err(corpus.no_documents());
    }
    let meter = Meter::new(Phase::TrainTokenizer, vocab_size as u64);
    meter.report(0, progress);
    let inner = match objective {
        Objective::MaskedTokens => train_bert(words, vocab_size),
        Objective::NextTokens => train_byte_level::train(words, vocab_size),
        Objective::Spans => train_unigram::train(words, vocab_size),
    }?;
    meter.report(vocab_size as u64, progress);
    TextTokenizer::from_inner(inner, format!("trained with {vocab_size} tokens"))
}

fn train_bert(mut words: Words, vocab_size: usize) -> Result<Tokenizer> {
    // A vocabulary holds characters twice: at a word's begin and inside.
    keep_spellable(&mut words, alphabet_limit(vocab_size - SpecialTokens::TEXTS.len()));
    let model = train_word_piece(words, vocab_size)?;
    bert_tokenizer(ORIGIN, model, true, &SpecialTokens::TEXTS)
}

/// Of so many tokens, at most a quarter are single characters.
pub(super) fn alphabet_limit(tokens: usize) -> usize {
    MAX_ALPHABET.min(tokens / 4)
}

/// How often each run of characters between spaces occurs.
fn count_words(corpus: &Corpus, progress: &mut dyn FnMut(crate::Progress)) -> Result<Counts> {
    let share = SAMPLE_BYTES as f64 / corpus.bytes() as f64;
    let mut index = 0;
    let sampled = corpus.chunks().map(|chunk| {
        let chunk = chunk?;
        let counted = unit_hash(index) < share;
        index += 1;
        Ok(if counted { chunk } else { Chunk { text: String::new(), ..chunk } })
    });
    let mut total = Counts::new();
    let meter = Meter::new(Phase::CountWords, corpus.bytes());
    ordered_parallel(
        sampled,
        |chunk| {
            let mut counts = HashMap::<&str, u64>::new();
            for word in words(&chunk.text) {
                *counts.entry(word).or_default() += 1;
            }
            let owned = counts.into_iter().map(|(word, count)| (CompactString::from(word), count));
            Ok((owned.collect::<Vec<_>>(), chunk.bytes))
        },
        |(counts, bytes)| {
            for (word, count) in counts {
                *total.entry(word).or_default() += count;
            }
            meter.advance(bytes, progress);
            Ok(())
        },
    )?;
    Ok(total)
}

/// Counts of what the objective's tokenizer makes of each word before its model.
fn split_words(raw: Counts, objective: Objective) -> Result<Words> {
    let split = match objective {
        Objective::MaskedTokens => normalize_word,
        Objective::NextTokens => train_byte_level::split,
        Objective::Spans => train_unigram::split,
    };
    let raw: Vec<(CompactString, u64)> = raw.into_iter().collect();
    let counted = raw
        .par_chunks(4096)
        .map(|part| {
            let mut counts = Counts::new();
            for (word, count) in part {
                for part in split(word).map_err(|error| bad(ORIGIN, error.to_string()))? {
                    *counts.entry(part).or_default() += count;
                }
            }
            Ok(counts)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut total = Words::new();
    for (word, count) in counted.into_iter().flatten() {
        *total.entry(word).or_default() += count;
    }
    Ok(total)
}

/// By BERT's normalizer and pre-tokenizer.
fn normalize_word(word: &str) -> tokenizers::Result<Vec<CompactString>> {
    let mut normalized = NormalizedString::from(word);
    BertNormalizer::default().normalize(&mut normalized)?;
    let mut splits = PreTokenizedString::from(normalized);
    BertPreTokenizer.pre_tokenize(&mut splits)?;
    Ok(splits
        .get_splits(OffsetReferential::Normalized, OffsetType::Byte)
        .into_iter()
        .map(|(split, _, _)| CompactString::from(split))
        .collect())
}

/// Drops words that the `limit` most frequent characters can't spell, and overlong words.
pub(super) fn keep_spellable(words: &mut Words, limit: usize) {
    words.retain(|word, _| word.chars().count() <= MAX_WORD_CHARS);
    let mut counts = BTreeMap::<char, u64>::new();
    for (word, count) in words.iter() {
        for character in word.chars() {
            *counts.entry(character).or_default() += count;
        }
    }
    let mut by_count: Vec<(char, u64)> = counts.into_iter().collect();
    by_count.sort_by_key(|&(character, count)| (std::cmp::Reverse(count), character));
    by_count.truncate(limit);
    let alphabet: BTreeSet<char> = by_count.into_iter().map(|(character, _)| character).collect();
    words.retain(|word, _| word.chars().all(|character| alphabet.contains(&character)));
}

fn train_word_piece(words: Words, vocab_size: usize) -> Result<WordPiece> {
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

/// BERT's steps around a WordPiece model: normalizer, pre-tokenizer, `[CLS] … [SEP]`, decoder.
pub(super) fn bert_tokenizer(
    origin: &str,
    model: WordPiece,
    lower_case: bool,
    special: &[&str],
) -> Result<Tokenizer> {
    let fail = |error: &dyn std::fmt::Display| bad(origin, error.to_string());
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(BertNormalizer::new(true, true, None, lower_case)))
        .map_err(|error| fail(&error))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_decoder(Some(decoders::wordpiece::WordPiece::default()));
    let id = |text: &str| tokenizer.token_to_id(text);
    if let (Some(cls), Some(sep)) = (id("[CLS]"), id("[SEP]")) {
        let template = TemplateProcessing::builder()
            .try_single("[CLS] $A [SEP]")
            .and_then(|builder| builder.try_pair("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"))
            .map_err(|error| fail(&error))?
            .special_tokens(vec![("[CLS]", cls), ("[SEP]", sep)])
            .build()
            .map_err(|error| fail(&error))?;
        tokenizer.with_post_processor(Some(template));
    }
    let special = special.iter().map(|&text| AddedToken::from(text, true));
    tokenizer.add_special_tokens(special).map_err(|error| fail(&error))?;
    Ok(tokenizer)
}

/// A tokenizer for tests, trained on a few words.
#[cfg(test)]
pub(super) fn test_tokenizer() -> TextTokenizer {
    use std::sync::OnceLock;
    static TOKENIZER: OnceLock<TextTokenizer> = OnceLock::new();
    let make = || {
        let text = "The cat sat on a mat. [Is] it's ## 9 é? ß, 中 文\n\n".repeat(3);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.txt");
        std::fs::write(&path, text).unwrap();
        let corpus = Corpus::open(&[path]).unwrap();
        train_tokenizer(&corpus, Objective::MaskedTokens, 200, &mut |_| {}).unwrap()
    };
    TOKENIZER.get_or_init(make).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_without_accents_and_cut_at_punctuation() {
        let found = normalize_word("Naïve-É's").unwrap();
        assert_eq!(found, ["naive", "-", "e", "'", "s"]);
    }

    #[test]
    fn rare_characters_take_their_words_with_them() {
        let mut words: BTreeMap<CompactString, u64> =
            [("ab", 9), ("ba", 5), ("ax", 1), ("b", 1)].map(|(w, n)| (w.into(), n)).into();
        words.insert("a".repeat(MAX_WORD_CHARS + 1).into(), 7);
        keep_spellable(&mut words, 2);
        assert_eq!(words.keys().collect::<Vec<_>>(), ["ab", "b", "ba"]);
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
