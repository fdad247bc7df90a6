//! Which documents are held out, and the two token files that a corpus is split into.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::corpus::Corpus;
use crate::error::Result;
use crate::shard::{ShardWriter, TokenShard};
use crate::summary::DatasetSummary;
use crate::tokenizer::{EncodedFragment, TextTokenizer};
use crate::unigram;

/// Tokens that are copied at a time.
const COPY_TOKENS: usize = 1 << 20;

/// Two token files, filled from one stream of documents.
///
/// A document's own text decides by a hash where it goes: a corpus that grows moves no document
/// from one side to the other, and equal documents are on one side.
pub(crate) struct DatasetSplit<'a> {
    tokenizer: &'a TextTokenizer,
    paths: [PathBuf; 2],
    train: CountedShard,
    held_out: CountedShard,
    /// Whether the document that is open is held out.
    holds_out: bool,
    /// Whether a single document is on both sides.
    within_document: bool,
}

/// A token file that is being written, and how often it has each token.
struct CountedShard {
    writer: ShardWriter,
    counts: Vec<u64>,
    document_is_open: bool,
}

impl CountedShard {
    fn create(path: &Path, tokenizer: &TextTokenizer) -> Result<Self> {
        let size = tokenizer.vocab_size();
        let writer = ShardWriter::create(path, size, tokenizer.fingerprint()?)?;
        Ok(Self { writer, counts: vec![0; size], document_is_open: false })
    }

    fn append(&mut self, tokens: &[u32]) -> Result<()> {
        for &id in tokens {
            self.counts[id as usize] += 1;
        }
        self.document_is_open |= !tokens.is_empty();
        self.writer.append(tokens)
    }

    /// Ends the document that is open, unless it has no token.
    fn end_document(&mut self) {
        if std::mem::take(&mut self.document_is_open) {
            self.writer.end_document();
        }
    }

    /// Appends the tokens `range` of another file.
    fn copy(&mut self, from: &TokenShard, range: Range<usize>) -> Result<()> {
        for start in range.clone().step_by(COPY_TOKENS) {
            self.append(&from.tokens(start..range.end.min(start + COPY_TOKENS))?)?;
        }
        Ok(())
    }
}

impl<'a> DatasetSplit<'a> {
    /// Begins the files `train` and `held_out`.
    pub(crate) fn create(
        train: &Path,
        held_out: &Path,
        tokenizer: &'a TextTokenizer,
    ) -> Result<Self> {
        Ok(Self {
            tokenizer,
            paths: [train.to_owned(), held_out.to_owned()],
            train: CountedShard::create(train, tokenizer)?,
            held_out: CountedShard::create(held_out, tokenizer)?,
            holds_out: false,
            within_document: false,
        })
    }

    /// Adds a document, or goes on with it. Of many, about the share `held_out` is held out.
    pub(crate) fn push(&mut self, fragment: &EncodedFragment<'_>, held_out: f64) -> Result<()> {
        if let Some(chance) = fragment.begins_document {
            self.end_document();
            self.holds_out = chance < held_out;
        }
        self.open_side().append(fragment.tokens)
    }

    /// Ends the document that is open.
    pub(crate) fn end_document(&mut self) {
        self.open_side().end_document();
    }

    /// Documents so far, without one that is open.
    pub(crate) fn document_count(&self) -> usize {
        self.train.writer.document_count() + self.held_out.writer.document_count()
    }

    fn open_side(&mut self) -> &mut CountedShard {
        if self.holds_out { &mut self.held_out } else { &mut self.train }
    }

    /// The same with documents on both sides, where `share` is not 0 and chance gave all to one:
    /// the last one is held out, or, of a single document, its end.
    ///
    /// # Errors
    /// A corpus of a single token; a full disk.
    pub(crate) fn with_both_sides(self, corpus: &Corpus, share: f64) -> Result<Self> {
        let [in_train, in_held_out] =
            [&self.train, &self.held_out].map(|side| side.writer.document_count() > 0);
        if share == 0.0 || (in_train && in_held_out) {
            return Ok(self);
        }
        let [train, held_out] = &self.paths;
        let all = if in_train { self.train } else { self.held_out }.writer.finish()?;
        let mut split = Self::create(train, held_out, self.tokenizer)?;
        let (documents, tokens) = (all.document_count(), all.token_count());
        split.within_document = documents == 1;
        let held_out_begin = match documents {
            1 => tokens - ((share * tokens as f64).round() as usize).max(1),
            _ => all.offsets()[documents - 1] as usize,
        };
        if held_out_begin == 0 {
            return Err(corpus.too_short_to_hold_out());
        }
        for document in all.offsets().windows(2) {
            let (start, end) = (document[0] as usize, document[1] as usize);
            let border = held_out_begin.clamp(start, end);
            split.train.copy(&all, start..border)?;
            split.train.end_document();
            split.held_out.copy(&all, border..end)?;
            split.held_out.end_document();
        }
        Ok(split)
    }

    /// Gives both files their names.
    ///
    /// # Errors
    /// A full disk.
    pub(crate) fn finish(self) -> Result<DatasetSummary> {
        let (train, held_out) = (&self.train.counts, &self.held_out.counts);
        let all: Vec<u64> = train.iter().zip(held_out).map(|(a, b)| a + b).collect();
        let total: u64 = all.iter().sum();
        let unknown = self.tokenizer.unknown_id();
        let summary = DatasetSummary {
            unigram_entropy: unigram::entropy(&all),
            held_out_unigram_loss: (held_out.iter().any(|&count| count > 0))
                .then(|| unigram::cross_entropy(train, held_out)),
            unknown_share: unknown.map(|id| all[id as usize] as f64 / total as f64),
            split_within_document: self.within_document,
        };
        self.train.writer.finish()?;
        self.held_out.writer.finish()?;
        Ok(summary)
    }
}
