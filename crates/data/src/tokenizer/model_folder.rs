//! The tokenizer of a model folder, whichever files it has.

use std::path::Path;

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

use super::files::TokenizerFiles;
use super::{bad, byte_level, check_steps};
use crate::error::Result;

/// A model's own tokenizer, for text in and text out.
#[derive(Debug, Clone)]
pub struct ModelTokenizer {
    pub(super) inner: Tokenizer,
    names: SpecialNames,
    max_length: Option<usize>,
    /// Where it came from, for messages.
    pub(super) origin: String,
}

/// The texts of tokens that are no text, as far as a tokenizer has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialNames {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text.
    pub eos: Option<String>,
    /// Fills up sequences.
    pub pad: Option<String>,
    /// Hides a token that is to be predicted.
    pub mask: Option<String>,
    /// Stands for what the vocabulary can't spell.
    pub unk: Option<String>,
    /// Begins a sequence of BERT.
    pub cls: Option<String>,
    /// Ends a sequence of BERT.
    pub sep: Option<String>,
}

impl SpecialNames {
    /// The usual ones of this kind of model, of which `tokenizer` has a token.
    pub(super) fn usual(tokenizer: &Tokenizer) -> Self {
        let first = |texts: &[&str]| {
            let has = |text: &&&str| tokenizer.token_to_id(text).is_some();
            texts.iter().find(has).map(|text| (*text).to_owned())
        };
        match tokenizer.get_model() {
            ModelWrapper::WordPiece(_) => Self {
                pad: first(&["[PAD]"]),
                mask: first(&["[MASK]"]),
                unk: first(&["[UNK]"]),
                cls: first(&["[CLS]"]),
                sep: first(&["[SEP]"]),
                ..Self::default()
            },
            ModelWrapper::Unigram(_) => Self {
                eos: first(&["</s>"]),
                pad: first(&["<pad>"]),
                mask: first(&["<mask>"]),
                unk: first(&["<unk>"]),
                ..Self::default()
            },
            _ => Self {
                bos: first(&[byte_level::END_OF_TEXT, "<s>"]),
                eos: first(&[byte_level::END_OF_TEXT, "</s>"]),
                pad: first(&["<|pad|>", "<pad>", "[PAD]"]),
                mask: first(&["<mask>", "[MASK]"]),
                unk: first(&["<unk>", "[UNK]"]),
                cls: first(&["[CLS]"]),
                sep: first(&["[SEP]"]),
            },
        }
    }

    /// Takes the names that `config`, a `tokenizer_config.json`, has.
    fn overlay(&mut self, config: &Value) {
        let name_of = |key: &str| match &config[key] {
            Value::String(text) => Some(text.clone()),
            object => object["content"].as_str().map(str::to_owned),
        };
        for (key, name) in self.keys_mut() {
            if let Some(text) = name_of(key) {
                *name = Some(text);
            }
        }
    }

    fn keys_mut(&mut self) -> [(&'static str, &mut Option<String>); 7] {
        [
            ("bos_token", &mut self.bos),
            ("eos_token", &mut self.eos),
            ("pad_token", &mut self.pad),
            ("mask_token", &mut self.mask),
            ("unk_token", &mut self.unk),
            ("cls_token", &mut self.cls),
            ("sep_token", &mut self.sep),
        ]
    }

    /// Those that there are, with their keys in `tokenizer_config.json`.
    pub(super) fn known(mut self) -> Vec<(&'static str, String)> {
        let known = self.keys_mut().into_iter();
        known.filter_map(|(key, name)| Some((key, name.take()?))).collect()
    }
}

impl ModelTokenizer {
    /// Reads the tokenizer in `folder`: `tokenizer.json`, or else the files of older models:
    /// `spiece.model` of T5, `vocab.json` and `merges.txt` of GPT-2 (or `encoder.json` and
    /// `vocab.bpe`), `vocab.txt` of BERT. `tokenizer_config.json` says more, where there is one.
    ///
    /// # Errors
    /// None of these, or one that is malformed.
    pub fn load(folder: &Path) -> Result<Self> {
        let files = TokenizerFiles::find(folder)?;
        let (origin, config) = (files.origin(), files.config()?);
        let mut inner = files.read(&config)?;
        let truncation = inner.get_truncation().map(|truncation| truncation.max_length);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| bad(&origin, error.to_string()))?;
        check_steps(&origin, &inner)?;
        let mut names = SpecialNames::usual(&inner);
        names.overlay(&config);
        // transformers writes 1e30 for "no limit".
        let stated = config["model_max_length"].as_u64().map(|length| length as usize);
        Ok(Self { inner, names, max_length: stated.or(truncation), origin })
    }

    /// Token ids of `text` with the special tokens that the model expects around it. Special
    /// tokens in the text are what they say.
    ///
    /// # Errors
    /// What the tokenizer's model refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, true) {
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

    /// The texts of its special tokens.
    pub fn names(&self) -> &SpecialNames {
        &self.names
    }

    /// The longest sequence that the tokenizer's files allow, if they say one.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// One more than the greatest token id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The file that it was read from.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// Text of tokens that come one by one. Half a character is held back until its rest comes.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a ModelTokenizer,
    ids: Vec<u32>,
    /// Tokens before this one have all been shown, and are not decoded again.
    start: usize,
    /// Bytes of the text from `start` that have been shown.
    shown: usize,
}

impl<'a> TextStream<'a> {
    /// An empty text.
    pub fn new(tokenizer: &'a ModelTokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), start: 0, shown: 0 }
    }

    /// The text that `id` adds, if any is certain yet.
    ///
    /// # Errors
    /// As [`ModelTokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids[self.start..])?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let new = text.get(self.shown..).unwrap_or_default().to_owned();
        // A few tokens are kept, since decoders treat a text's first token in their own way.
        const KEPT: usize = 8;
        self.shown = text.len();
        if self.ids.len() - self.start >= 4 * KEPT {
            self.start = self.ids.len() - KEPT;
            self.shown = self.tokenizer.decode(&self.ids[self.start..])?.len();
        }
        Ok(new)
    }

    /// What was held back, as it is.
    ///
    /// # Errors
    /// As [`ModelTokenizer::decode`].
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids[self.start..])?;
        Ok(text.get(self.shown..).unwrap_or_default().to_owned())
    }
}
