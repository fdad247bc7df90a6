//! Which documents are held out, and the two token files that a corpus is split into.

use std::path::Path;

use crate::corpus::Corpus;
use crate::error::Result;
use crate::random::unit_hash;
use crate::shard::ShardWriter;
use crate::summary::DatasetSummary;
use crate::tokenizer::TextTokenizer;
use crate::unigram;

/// Two token files, filled from one stream of documents.
///
/// A document's number decides by chance where it goes. The newest one waits until the next comes,
/// so that the last can go where it is needed if chance left one side empty.
pub(crate) struct DatasetSplit {
    train: CountedShard,
    held_out: CountedShard,
    fraction: f64,
    waiting: Option<Vec<u32>>,
    /// The number of the document that waits.
    number: u64,
}

struct CountedShard {
    writer: ShardWriter,
    counts: Vec<u64>,
}

impl CountedShard {
    fn push(&mut self, tokens: &[u32]) -> Result<()> {
        for &id in tokens {
            self.counts[id as usize] += 1;
        }
        self.writer.push(tokens)
    }

    fn is_empty(&self) -> bool {
        self.writer.document_count() == 0
    }
}

impl DatasetSplit {
    /// Begins the files `train` and `held_out`; the latter gets about `fraction` of the documents.
    pub(crate) fn create(
        train: &Path,
        held_out: &Path,
        tokenizer: &TextTokenizer,
        fraction: f64,
    ) -> Result<Self> {
        let size = tokenizer.vocab_size();
        let fingerprint = tokenizer.fingerprint()?;
        let side = |path| -> Result<CountedShard> {
            let writer = ShardWriter::create(path, size, fingerprint)?;
            Ok(CountedShard { writer, counts: vec![0; size] })
        };
        let (train, held_out) = (side(train)?, side(held_out)?);
        Ok(Self { train, held_out, fraction, waiting: None, number: 0 })
    }

    /// Adds a document, which is not empty.
    pub(crate) fn push(&mut self, tokens: &[u32]) -> Result<()> {
        let Some(previous) = self.waiting.replace(tokens.to_vec()) else {
            return Ok(());
        };
        let side = if self.is_held_out() { &mut self.held_out } else { &mut self.train };
        self.number += 1;
        side.push(&previous)
    }

    /// Whether chance holds out the document that waits.
    fn is_held_out(&self) -> bool {
        unit_hash(self.number) < self.fraction
    }

    /// Places the last document and gives both files their names.
    ///
    /// # Errors
    /// Fewer than two documents; a full disk.
    pub(crate) fn finish(mut self, corpus: &Corpus) -> Result<DatasetSummary> {
        let last = self.waiting.take().ok_or_else(|| corpus.no_documents())?;
        let side = match (self.train.is_empty(), self.held_out.is_empty()) {
            (true, true) => return Err(corpus.only_one_document()),
            (true, false) => &mut self.train,
            (false, true) => &mut self.held_out,
            (false, false) if self.is_held_out() => &mut self.held_out,
            (false, false) => &mut self.train,
        };
        side.push(&last)?;
        let (train, held_out) = (&self.train.counts, &self.held_out.counts);
        let all: Vec<u64> = train.iter().zip(held_out).map(|(a, b)| a + b).collect();
        let summary = DatasetSummary {
            unigram_entropy: unigram::entropy(&all),
            held_out_unigram_loss: unigram::cross_entropy(train, held_out),
        };
        self.train.writer.finish()?;
        self.held_out.writer.finish()?;
        Ok(summary)
    }
}
