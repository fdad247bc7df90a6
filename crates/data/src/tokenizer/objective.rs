//! What a tokenizer is for, and the tokens that it must have for that.

use serde::{Deserialize, Serialize};

use super::byte_level::END_OF_TEXT;
use super::{SpecialTokens, TextTokenizer, Vocabulary, bad};
use crate::error::Result;

/// Sentinels that a T5 tokenizer has.
pub(super) const SENTINELS: usize = 100;

/// What a model learns, which decides what its tokenizer must have and how one is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// BERT's: WordPiece with [`SpecialTokens::TEXTS`].
    MaskedTokens,
    /// GPT's: byte-level pairs with `<|endoftext|>`.
    NextTokens,
    /// T5's: Unigram with `<pad>`, `</s>` and sentinels.
    Spans,
}

/// The tokens of span corruption that are no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanTokens {
    /// `<pad>`: fills up sequences, and begins each text of the decoder.
    pub pad: u32,
    /// `</s>`: ends each text.
    pub end: u32,
    /// `<extra_id_0>`, `<extra_id_1>` and so on: each stands for a span.
    pub sentinels: Vec<u32>,
}

impl Objective {
    /// The smallest vocabulary that can be trained: tokens that are no text, and a few characters
    /// or all bytes.
    pub fn min_vocab_size(self) -> usize {
        match self {
            Self::MaskedTokens => 64,
            Self::NextTokens => 320,
            Self::Spans => 192,
        }
    }

    /// A few words for its model.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MaskedTokens => "masked tokens",
            Self::NextTokens => "next tokens",
            Self::Spans => "corrupted spans",
        }
    }

    /// Refuses a tokenizer that lacks what the objective needs.
    pub(crate) fn check(self, tokenizer: &TextTokenizer) -> Result<()> {
        match self {
            Self::MaskedTokens => tokenizer.vocabulary().map(drop),
            Self::NextTokens => tokenizer.end_of_text().map(drop),
            Self::Spans => tokenizer.span_tokens().map(drop),
        }
    }
}

/// The text of sentinel `number`.
pub(super) fn sentinel(number: usize) -> String {
    format!("<extra_id_{number}>")
}

impl TextTokenizer {
    /// Size and special ids, for masked language modelling.
    ///
    /// # Errors
    /// A tokenizer that lacks one of [`SpecialTokens::TEXTS`].
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        // RoBERTa's tokenizer has the same five under other names.
        let is_robertas = self.id(SpecialTokens::TEXTS[4]).is_none()
            && SpecialTokens::ROBERTA_TEXTS.iter().all(|text| self.id(text).is_some());
        let texts = if is_robertas { SpecialTokens::ROBERTA_TEXTS } else { SpecialTokens::TEXTS };
        let [pad, unk, cls, sep, mask] = texts.map(|text| {
            let need = format!("masked language modelling needs all of {:?}", SpecialTokens::TEXTS);
            self.need(text, &need)
        });
        let special = SpecialTokens { pad: pad?, unk: unk?, cls: cls?, sep: sep?, mask: mask? };
        Ok(Vocabulary { size: self.vocab_size(), special })
    }

    /// The token between texts, for causal language modelling.
    ///
    /// # Errors
    /// A tokenizer that lacks it.
    pub fn end_of_text(&self) -> Result<u32> {
        self.need(END_OF_TEXT, "causal language modelling begins and ends texts with it")
    }

    /// The tokens of span corruption.
    ///
    /// # Errors
    /// A tokenizer that lacks `<pad>`, `</s>` or `<extra_id_0>`.
    pub fn span_tokens(&self) -> Result<SpanTokens> {
        let why = "span corruption needs <pad>, </s> and <extra_id_0>";
        let (pad, end) = (self.need("<pad>", why)?, self.need("</s>", why)?);
        self.need(&sentinel(0), why)?;
        let known = (0..).map_while(|number| self.id(&sentinel(number)));
        Ok(SpanTokens { pad, end, sentinels: known.collect() })
    }

    fn need(&self, text: &str, why: &str) -> Result<u32> {
        self.id(text).ok_or_else(|| bad(&self.origin, format!("lacks the token {text}; {why}")))
    }
}
