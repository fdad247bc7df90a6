//! What is known of a dataset without reading its tokens.

use serde::{Deserialize, Serialize};

use crate::duplicates::DuplicateCounts;

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
    /// Documents that occur more than once; `None` where they were not looked for.
    pub duplicates: Option<DuplicateCounts>,
    /// Files with tokens to train on.
    pub train_shards: u32,
    /// Files with held-out tokens.
    pub held_out_shards: u32,
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
        if let Some(found) = self.duplicates {
            let what = if found.dropped { "were dropped" } else { "are there, and stay" };
            let forgot = match found.forgot {
                true => {
                    "; there were more documents than are remembered, and later ones may occur \
                         twice"
                }
                false => "",
            };
            notes.push(format!(
                "duplicates: {} equal documents and {} near ones {what}; duplicates.jsonl in the \
                 dataset's folder lists them{forgot}",
                found.equal, found.near
            ));
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
}
