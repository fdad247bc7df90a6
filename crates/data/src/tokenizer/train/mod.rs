//! Training a vocabulary, the same on every machine and with any number of threads.
//!
//! | file | holds |
//! | --- | --- |
//! | `words` | counts of words, in bounded memory |
//! | `alphabet` | which single characters a vocabulary has |
//! | `word_piece`, `byte_level`, `unigram` | the kinds of tokenizers |
//! | `pieces` | Unigram's pieces, by expectation maximisation |

mod alphabet;
mod byte_level;
mod pieces;
mod unigram;
mod word_piece;
mod words;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bert4rs_tensor_core::error::panic_text;
use tokenizers::Tokenizer;

use super::{Objective, TextTokenizer, bad};
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::progress::{Phase, Progress, ProgressMeter};
pub use words::SAMPLE_BYTES;
use words::{count_runs, split_runs};

/// Pairs seen less often are not merged, as in BERT's trainer.
const MIN_FREQUENCY: u64 = 2;
const ORIGIN: &str = "to be trained";

/// How a tokenizer is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenizerTraining {
    /// The most tokens it may have.
    pub vocab_size: usize,
    /// The share of the text's characters that the vocabulary can spell at least, as long as they
    /// take no more than three quarters of it: above 0, at most 1. Rarer characters are kept where
    /// all of them take less than a quarter. Byte-level pairs spell everything anyway.
    pub character_coverage: f64,
    /// Whether a Unigram vocabulary spells unknown characters by their bytes, for 256 tokens.
    pub byte_fallback: bool,
}

impl TokenizerTraining {
    /// At most `vocab_size` tokens, SentencePiece's coverage of 0.9995, no bytes.
    pub fn new(vocab_size: usize) -> Self {
        Self { vocab_size, character_coverage: 0.9995, byte_fallback: false }
    }

    fn check(&self, objective: Objective) -> Result<()> {
        let bytes = if self.byte_fallback { 256 } else { 0 };
        let least = objective.min_vocab_size() + bytes;
        if self.vocab_size < least || self.vocab_size > u32::MAX as usize {
            let expected = format!("a number from {least} to {}", u32::MAX);
            return Err(Error::setting("the vocabulary size to train", self.vocab_size, expected));
        }
        if !(self.character_coverage > 0.0 && self.character_coverage <= 1.0) {
            let expected = "above 0, at most 1";
            return Err(Error::setting("character_coverage", self.character_coverage, expected));
        }
        if self.byte_fallback && objective != Objective::Spans {
            let expected = "false: only Unigram vocabularies, which T5 has, can fall back to bytes";
            return Err(Error::setting("byte_fallback", true, expected));
        }
        Ok(())
    }
}

/// Trains a tokenizer on `corpus`: WordPiece of lower-cased text, byte-level pairs, or Unigram, as
/// the objective has it.
///
/// The result depends on the text, the objective and `training` alone. It is smaller than asked
/// for where the corpus has too few words that occur more than once. Of a corpus larger than
/// [`SAMPLE_BYTES`], a sample of about that size is looked at.
///
/// # Errors
/// A `vocab_size` below [`Objective::min_vocab_size`] and other options that can't be used; a
/// corpus that can't be read or has no words.
pub fn train_tokenizer(
    corpus: &Corpus,
    objective: Objective,
    training: TokenizerTraining,
    progress: &mut dyn FnMut(Progress),
) -> Result<TextTokenizer> {
    training.check(objective)?;
    let runs = count_runs(corpus, progress)?;
    let words = split_runs(
        runs,
        match objective {
            Objective::MaskedTokens => word_piece::split,
            Objective::NextTokens => byte_level::split,
            Objective::Spans => unigram::split,
        },
    )?;
    if words.is_empty() {
        return Err(corpus.no_documents());
    }
    let vocab_size = training.vocab_size;
    let meter = ProgressMeter::new(Phase::TrainTokenizer, vocab_size as u64);
    meter.report(0, progress);
    let inner = contain(|| match objective {
        Objective::MaskedTokens => word_piece::train(words, &training),
        Objective::NextTokens => byte_level::train(words, vocab_size),
        Objective::Spans => unigram::train(words, &training),
    })?;
    meter.report(vocab_size as u64, progress);
    TextTokenizer::from_inner(inner, format!("trained with {vocab_size} tokens"))
}

/// Turns a panic of the `tokenizers` crate's trainers into an error.
fn contain(train: impl FnOnce() -> Result<Tokenizer>) -> Result<Tokenizer> {
    catch_unwind(AssertUnwindSafe(train)).unwrap_or_else(|payload| {
        let reason = format!(
            "no vocabulary can be trained on this corpus ({}); give more text, or choose a \
             tokenizer",
            panic_text(payload.as_ref())
        );
        Err(bad(ORIGIN, reason))
    })
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
        let corpus = Corpus::open(&[path], crate::CorpusReading::default()).unwrap();
        let training = TokenizerTraining::new(200);
        train_tokenizer(&corpus, Objective::MaskedTokens, training, &mut |_| {}).unwrap()
    };
    TOKENIZER.get_or_init(make).clone()
}
