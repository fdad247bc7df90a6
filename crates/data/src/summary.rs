//! What is known of a dataset without reading its tokens.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Above this share of unknown tokens, a model learns too little of the text.
const UNKNOWN_WARNING: f64 = 0.01;

/// Numbers that took a pass over all tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DatasetSummary {
    /// Entropy of the token frequencies in the whole corpus, in nats.
    pub unigram_entropy: f64,
    /// Loss on held-out tokens of a model that predicts the training tokens' frequencies, each
    /// raised by one, in nats; `None` where nothing is held out.
    pub held_out_unigram_loss: Option<f64>,
    /// The share of tokens that stand for text that the vocabulary can't spell; `None` where the
    /// tokenizer has no such token, and so spells everything.
    pub unknown_share: Option<f64>,
    /// Whether the corpus is one document, of which the end is held out.
    pub split_within_document: bool,
}

/// A summary as it is kept, with what tells that it is damaged.
#[derive(Serialize, Deserialize)]
struct Sealed {
    summary: DatasetSummary,
    blake3: String,
}

impl Sealed {
    fn new(summary: DatasetSummary) -> serde_json::Result<Self> {
        let blake3 = blake3::hash(&serde_json::to_vec(&summary)?).to_hex().to_string();
        Ok(Self { summary, blake3 })
    }
}

impl DatasetSummary {
    /// Lines that a user should read before training.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.split_within_document {
            notes.push(
                "the corpus is one document: its end is held out; separate documents by blank \
                 lines"
                    .into(),
            );
        }
        if let Some(share) = self.unknown_share.filter(|&share| share > UNKNOWN_WARNING) {
            notes.push(format!(
                "{:.1}% of the tokens are unknown to the vocabulary, and nothing is learned of \
                 them: raise model.vocab_size or data.character_coverage, set \
                 data.byte_fallback, or choose another tokenizer",
                100.0 * share
            ));
        }
        notes
    }

    /// Reads what [`write`](Self::write) wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let fail = |error: serde_json::Error| Error::io("read", path)(error.into());
        let json = fs::read(path).map_err(Error::io("read", path))?;
        let sealed: Sealed = serde_json::from_slice(&json).map_err(fail)?;
        if Sealed::new(sealed.summary).map_err(fail)?.blake3 != sealed.blake3 {
            let reason = "does not match its checksum".to_owned();
            return Err(Error::Shard { path: path.to_owned(), reason });
        }
        Ok(sealed.summary)
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = Sealed::new(*self)
            .and_then(|sealed| serde_json::to_vec_pretty(&sealed))
            .map_err(|error| Error::io("write", path)(error.into()))?;
        Ok(bert4rs_tensor_core::safetensors::write_atomic(path, &json)?)
    }
}
