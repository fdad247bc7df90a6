//! From text to token ids, by tokenizers that are trained here or loaded.

mod bert_steps;
mod byte_level;
mod encoder;
mod export;
mod files;
mod model_folder;
mod objective;
mod pairs;
mod sentence_piece;
mod stress;
mod train;
mod vocab_txt;
mod windows;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bert4rs_tensor_core::error::panic_text;
use bert4rs_tensor_core::files::check_fetched;
use serde::{Deserialize, Serialize};
use tokenizers::{ModelWrapper, NormalizerWrapper, Tokenizer};

use crate::error::{Error, Result};

pub(crate) use encoder::{CacheStore, EncodedFragment, encode_fragments, words};
pub use export::CONFIG_FILE;
pub(crate) use files::TokenizerFiles;
pub use model_folder::{ModelTokenizer, SpecialNames, TextStream};
pub use objective::{Objective, SpanTokens};
pub use pairs::{EncodedText, PairTokenizer};
pub use stress::{STRESS_TEXT, TokenizerDifference};
pub use train::{SAMPLE_BYTES, TokenizerTraining, train_tokenizer};
pub use windows::{TextWindow, WindowTokenizer};

/// Ids of the tokens that are no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// `[PAD]`: fills up sequences.
    pub pad: u32,
    /// `[UNK]`: stands for a word that the vocabulary can't spell.
    pub unk: u32,
    /// `[CLS]`: begins each piece of a document.
    pub cls: u32,
    /// `[SEP]`: ends each piece of a document.
    pub sep: u32,
    /// `[MASK]`: hides a token that is to be predicted.
    pub mask: u32,
}

impl SpecialTokens {
    /// Their texts, in the order of the ids that a trained tokenizer gives them.
    pub const TEXTS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

    /// The same of RoBERTa and XLM-R.
    pub const ROBERTA_TEXTS: [&str; 5] = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"];

    /// Whether `id` is one of them.
    pub fn contains(&self, id: u32) -> bool {
        [self.pad, self.unk, self.cls, self.sep, self.mask].contains(&id)
    }
}

/// What a batch needs to know of a tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocabulary {
    /// One more than the greatest token id.
    pub size: usize,
    /// The ids that are no text.
    pub special: SpecialTokens,
}

/// A tokenizer of text to train on.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    /// One more than the greatest token id.
    size: usize,
    /// Where it came from, for messages.
    origin: String,
}

impl TextTokenizer {
    /// Reads what model folders hold: `tokenizer.json`, `spiece.model` of T5, `vocab.json` and
    /// `merges.txt` of GPT-2, `vocab.txt` of BERT. `path` is one of them, or a folder, of which the
    /// first in this order is taken, as its `tokenizer_config.json` has it.
    ///
    /// Padding and truncation in a `tokenizer.json` are switched off. A `vocab.txt` lower-cases
    /// text unless it holds a token with one of the letters A to Z, or its folder says otherwise.
    ///
    /// # Errors
    /// A missing or malformed file.
    pub fn load(path: &Path) -> Result<Self> {
        let files = TokenizerFiles::find(path)?;
        Self::from_inner(files.read(&files.config()?)?, files.origin())
    }

    /// Reads a tokenizer from the contents of `file`, a `tokenizer.json`.
    pub(crate) fn from_json(file: &Path, json: &[u8]) -> Result<Self> {
        let origin = file.display().to_string();
        Self::from_inner(parse_json(&origin, json)?, origin)
    }

    fn from_inner(mut inner: Tokenizer, origin: String) -> Result<Self> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| bad(&origin, error.to_string()))?;
        // `[MASK]` in a corpus is five ordinary characters and a word, not a mask.
        inner.set_encode_special_tokens(true);
        check_steps(&origin, &inner)?;
        let size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        Ok(Self { inner, size, origin })
    }

    /// Token ids of `text`, without special tokens around it.
    ///
    /// # Errors
    /// What the tokenizer's model refuses; WordPiece refuses nothing.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(bad(&self.origin, format!("can't encode: {error}"))),
        }
    }

    /// Text of `ids`, without special tokens.
    ///
    /// # Errors
    /// What the tokenizer's decoder refuses.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, true)
            .map_err(|error| bad(&self.origin, format!("can't decode: {error}")))
    }

    /// The token of this id, if there is one.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of this token, if there is one.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// One more than the greatest token id. A trained tokenizer may have fewer tokens than asked
    /// for, if its corpus is small.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// Of each id, whether its token goes on with the word before it: `##` begins such tokens of
    /// WordPiece; other kinds mark words' begins instead, by what stands for the space.
    pub fn continuations(&self) -> Vec<bool> {
        let is_word_piece = matches!(self.inner.get_model(), ModelWrapper::WordPiece(_));
        let goes_on = |id: u32| {
            self.token(id).is_some_and(|token| match is_word_piece {
                true => token.starts_with("##") && token.len() > 2,
                false => !token.starts_with(['\u{120}', '\u{2581}']),
            })
        };
        (0..self.size as u32).map(goes_on).collect()
    }

    /// The token that stands for text that the vocabulary can't spell, unless it spells everything.
    pub fn unknown_id(&self) -> Option<u32> {
        match self.inner.get_model() {
            ModelWrapper::Unigram(model) if model.byte_fallback() => None,
            _ => SpecialNames::usual(&self.inner).unk.and_then(|name| self.id(&name)),
        }
    }

    /// Writes a `tokenizer.json` that Hugging Face's `PreTrainedTokenizerFast` loads. Equal
    /// tokenizers give equal bytes.
    ///
    /// # Errors
    /// A place that can't be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = self.to_json()?;
        Ok(bert4rs_tensor_core::safetensors::write_atomic(path, text.as_bytes())?)
    }

    /// A hash of everything that decides which ids a text gets.
    ///
    /// It is the BLAKE3 of what [`save`](Self::save) writes.
    ///
    /// # Errors
    /// A tokenizer that can't be written as JSON.
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        Ok(*blake3::hash(self.to_json()?.as_bytes()).as_bytes())
    }

    fn to_json(&self) -> Result<String> {
        self.inner.to_string(false).map_err(|error| bad(&self.origin, error.to_string()))
    }

    /// Whether encoding word by word, where words are cut at ASCII spaces and line ends, gives
    /// what encoding the whole text gives.
    ///
    /// BERT's normalizer changes characters one by one or within a word, and its pre-tokenizer
    /// cuts at spaces, so only an added token with a space inside could span words.
    fn splits_at_spaces(&self) -> bool {
        let bert_steps =
            matches!(self.inner.get_normalizer(), Some(NormalizerWrapper::BertNormalizer(_)))
                && bert_steps::cuts_words_apart(self.inner.get_pre_tokenizer());
        let added = self.inner.get_added_tokens_decoder();
        bert_steps && !added.values().any(|token| token.content.contains(char::is_whitespace))
    }
}

/// Reads a `tokenizer.json`. Some that can't be used make the `tokenizers` crate panic.
fn parse_json(origin: &str, bytes: &[u8]) -> Result<Tokenizer> {
    check_fetched(Path::new(origin), bytes)?;
    let expected = "expected a tokenizer.json of Hugging Face";
    match catch_unwind(|| Tokenizer::from_bytes(bytes)) {
        Ok(parsed) => parsed.map_err(|error| bad(origin, format!("{error}; {expected}"))),
        Err(payload) => Err(bad(origin, format!("{}; {expected}", panic_text(&*payload)))),
    }
}

/// Refuses a tokenizer whose steps fail or panic on any text.
fn check_steps(origin: &str, tokenizer: &Tokenizer) -> Result<()> {
    let run = || {
        let ids = tokenizer.encode_fast("a b", true)?.get_ids().to_vec();
        tokenizer.decode(&ids, true).map(drop)
    };
    let reason = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(payload) => panic_text(&*payload),
    };
    Err(bad(origin, format!("can't encode or decode any text: {reason}")))
}

fn bad(origin: &str, reason: impl Into<String>) -> Error {
    Error::Tokenizer { origin: origin.to_owned(), reason: reason.into() }
}
