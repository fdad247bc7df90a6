//! What is known of a run's model and data before it begins.

use std::path::PathBuf;

use bert4rs_data::Dataset;

/// Numbers and words about model and data, for summaries and people.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Useful matrix-product FLOPs of one real token, forward and backward.
    pub flops_per_token: f64,
    /// Entropy of the labels' frequencies, in nats: the loss of knowing these alone.
    pub unigram_entropy: f64,
    /// The folder of the tokens in the cache.
    pub dataset: PathBuf,
    /// Lines that say what is learned from.
    pub description: Vec<String>,
}

impl Facts {
    /// The same with lines about `dataset`.
    pub(crate) fn describing(mut self, dataset: &Dataset) -> Self {
        let (train, held_out) = (&dataset.train, &dataset.held_out);
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
        self
    }
}
