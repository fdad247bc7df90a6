//! What is known of a run's model and data before it begins.

use std::path::PathBuf;

use bert4rs_data::{Dataset, PackingReport};

use crate::dataset::Corpora;
use crate::error::Result;

/// Numbers and words about model and data, for summaries and people.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Useful matrix-product FLOPs of one real token, forward and backward.
    pub flops_per_token: f64,
    /// Entropy of the labels' frequencies, in nats: the loss of knowing these alone.
    pub unigram_entropy: f64,
    /// The folders of the tokens in the cache.
    pub datasets: Vec<PathBuf>,
    /// A hash that tells the corpus as tokens from another: of the tokenizer, of how many tokens
    /// and documents each part has, and of the frequencies of tokens.
    pub data_hash: String,
    /// Lines that say what is learned from.
    pub description: Vec<String>,
}

impl Facts {
    /// The same with lines about `corpora`, of which packing did what `reports` say, and their
    /// hash.
    ///
    /// # Errors
    /// A tokenizer that can't be written as JSON.
    pub(crate) fn describing(
        mut self,
        corpora: &Corpora,
        reports: &[PackingReport],
    ) -> Result<Self> {
        self.data_hash = hash(corpora)?;
        self.datasets = corpora.parts().iter().map(|part| part.dataset.folder.clone()).collect();
        let several = corpora.parts().len() > 1;
        for ((part, share), report) in corpora.shares().zip(reports) {
            if several {
                let share = 100.0 * share;
                self.description
                    .push(format!("corpus     {}: {share:.2}% of the sequences", part.name));
            }
            self.description.extend(describe(&part.dataset, report));
        }
        self.description.push(format!(
            "unigram    {:.4} nats: the loss of knowing frequencies alone",
            self.unigram_entropy
        ));
        let notes = corpora.parts().iter().flat_map(|part| &part.dataset.notes);
        self.description.extend(notes.map(|note| format!("note       {note}")));
        Ok(self)
    }
}

/// Lines about one corpus.
fn describe(dataset: &Dataset, report: &PackingReport) -> [String; 2] {
    let (train, held_out) = (&dataset.train, &dataset.held_out);
    let unknown = match dataset.summary.unknown_share {
        Some(share) => format!(", {:.2}% unknown tokens", 100.0 * share),
        None => String::new(),
    };
    let data = format!(
        "data       {:.2} M tokens in {} documents, {} documents held out, vocabulary {}{unknown}",
        train.token_count() as f64 / 1e6,
        train.document_count(),
        held_out.document_count(),
        dataset.tokenizer.vocab_size()
    );
    let share = |count: u64| 100.0 * count as f64 / report.documents.max(1) as f64;
    let packing = format!(
        "packing    {:.1}% of the documents are split, {:.1}% are longer than a sequence; {:.2}% \
         of \
         the positions are left over",
        share(report.split),
        share(report.too_long),
        100.0 * report.padding
    );
    [data, packing]
}

fn hash(corpora: &Corpora) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&corpora.tokenizer().fingerprint()?);
    for part in corpora.parts() {
        let dataset = &part.dataset;
        for store in [&dataset.train, &dataset.held_out] {
            for count in [store.token_count(), store.document_count()] {
                hasher.update(&(count as u64).to_le_bytes());
            }
        }
        hasher.update(&dataset.summary.unigram_entropy.to_le_bytes());
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}
