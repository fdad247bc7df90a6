//! What is known of a run's model and data before it begins.

use std::path::PathBuf;

use bert4rs_data::Dataset;

use crate::error::Result;

/// Numbers and words about model and data, for summaries and people.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Useful matrix-product FLOPs of one real token, forward and backward.
    pub flops_per_token: f64,
    /// Entropy of the labels' frequencies, in nats: the loss of knowing these alone.
    pub unigram_entropy: f64,
    /// The folder of the tokens in the cache.
    pub dataset: PathBuf,
    /// A hash that tells the corpus as tokens from another: of the tokenizer, of how many tokens
    /// and documents each part has, and of the frequencies of tokens.
    pub data_hash: String,
    /// Lines that say what is learned from.
    pub description: Vec<String>,
}

impl Facts {
    /// The same with lines about `dataset`, and its hash.
    ///
    /// # Errors
    /// A tokenizer that can't be written as JSON.
    pub(crate) fn describing(mut self, dataset: &Dataset) -> Result<Self> {
        let (train, held_out) = (&dataset.train, &dataset.held_out);
        self.data_hash = hash(dataset)?;
        let unknown = match dataset.summary.unknown_share {
            Some(share) => format!(", {:.2}% unknown tokens", 100.0 * share),
            None => String::new(),
        };
        self.dataset = dataset.folder.clone();
        self.description = vec![
            format!(
                "data       {:.2} M tokens in {} documents, {} documents held out, \
                 vocabulary {}{unknown}",
                train.token_count() as f64 / 1e6,
                train.document_count(),
                held_out.document_count(),
                dataset.tokenizer.vocab_size()
            ),
            format!(
                "unigram    {:.4} nats: the loss of knowing frequencies alone",
                self.unigram_entropy
            ),
        ];
        self.description.extend(dataset.notes.iter().map(|note| format!("note       {note}")));
        Ok(self)
    }
}

fn hash(dataset: &Dataset) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&dataset.tokenizer.fingerprint()?);
    for part in [&dataset.train, &dataset.held_out] {
        for count in [part.token_count(), part.document_count()] {
            hasher.update(&(count as u64).to_le_bytes());
        }
    }
    hasher.update(&dataset.summary.unigram_entropy.to_le_bytes());
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}
