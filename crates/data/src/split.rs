//! Which documents are held out, and the token files that a corpus is split into.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::corpus::Corpus;
use crate::dataset::{HELD_OUT, TRAIN};
use crate::duplicates::DuplicateCounts;
use crate::error::Result;
use crate::shard::{StoreWriter, TokenStore, Written};
use crate::summary::DatasetSummary;
use crate::tokenizer::{EncodedFragment, TextTokenizer};
use crate::unigram;

/// Tokens that are copied at a time.
const COPY_TOKENS: usize = 1 << 20;

/// Two stores of tokens, filled from one stream of documents.
///
/// A document's own text decides by a hash where it goes: a corpus that grows moves no document
/// from one side to the other, and equal documents are on one side.
pub(crate) struct DatasetSplit<'a> {
    tokenizer: &'a TextTokenizer,
    folder: PathBuf,
    /// Tokens of a file, after which another is begun.
    shard_tokens: u64,
    train: Side,
    held_out: Side,
    /// Whether the document that is open is held out.
    holds_out: bool,
    /// Whether a single document is on both sides.
    within_document: bool,
}

/// One side, and how often it has each token.
struct Side {
    writer: StoreWriter,
    counts: Vec<u64>,
}

/// What is in finished files of a side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SideState {
    written: Written,
    counts: Vec<u64>,
}

/// What is in finished files: from here, a split can go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SplitState {
    train: SideState,
    held_out: SideState,
    holds_out: bool,
}

impl Side {
    fn create(
        folder: &Path,
        name: &'static str,
        tokenizer: &TextTokenizer,
        state: SideState,
    ) -> Result<Self> {
        let (size, fingerprint) = (tokenizer.vocab_size(), tokenizer.fingerprint()?);
        let writer = StoreWriter::create(folder, name, size, fingerprint, state.written)?;
        let mut counts = state.counts;
        counts.resize(size, 0);
        Ok(Self { writer, counts })
    }

    fn append(&mut self, tokens: &[u32]) -> Result<()> {
        for &id in tokens {
            self.counts[id as usize] += 1;
        }
        self.writer.append(tokens)
    }

    fn next_shard(&mut self) -> Result<SideState> {
        Ok(SideState { written: self.writer.next_shard()?, counts: self.counts.clone() })
    }
}

impl<'a> DatasetSplit<'a> {
    /// Begins the files in `folder`, or goes on from `state`; after `shard_tokens` tokens another
    /// file may begin.
    pub(crate) fn create(
        folder: &Path,
        tokenizer: &'a TextTokenizer,
        shard_tokens: u64,
        state: SplitState,
    ) -> Result<Self> {
        Ok(Self {
            tokenizer,
            folder: folder.to_owned(),
            shard_tokens,
            train: Side::create(folder, TRAIN, tokenizer, state.train)?,
            held_out: Side::create(folder, HELD_OUT, tokenizer, state.held_out)?,
            holds_out: state.holds_out,
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
        self.open_side().writer.end_document();
    }

    /// Documents so far, without one that is open.
    pub(crate) fn document_count(&self) -> u64 {
        self.train.writer.document_count() + self.held_out.writer.document_count()
    }

    fn open_side(&mut self) -> &mut Side {
        if self.holds_out { &mut self.held_out } else { &mut self.train }
    }

    /// Finishes the current files where one of them is full, and says from where to go on if the
    /// process should end.
    pub(crate) fn next_shards(&mut self) -> Result<Option<SplitState>> {
        let tokens = |side: &Side| side.writer.shard_tokens();
        if tokens(&self.train).max(tokens(&self.held_out)) < self.shard_tokens {
            return Ok(None);
        }
        let (train, held_out) = (self.train.next_shard()?, self.held_out.next_shard()?);
        Ok(Some(SplitState { train, held_out, holds_out: self.holds_out }))
    }

    /// Whether `share` is not 0, and chance gave all documents to one side.
    pub(crate) fn lacks_a_side(&self, share: f64) -> bool {
        let [train, held_out] =
            [&self.train, &self.held_out].map(|side| side.writer.document_count() > 0);
        share > 0.0 && !(train && held_out)
    }

    /// The same with documents on both sides: the last one is held out, or, of a single document,
    /// its end. All is written again.
    ///
    /// # Errors
    /// A corpus of a single token; a full disk.
    pub(crate) fn with_both_sides(self, corpus: &Corpus, share: f64) -> Result<Self> {
        let Self { tokenizer, folder, shard_tokens, train, held_out, .. } = self;
        let in_train = train.writer.document_count() > 0;
        let (all, empty) = if in_train { (train, held_out) } else { (held_out, train) };
        // Before a file of its name is begun anew: it may have bytes that are not written yet.
        drop(empty);
        let all = all.writer.into_store()?;
        let mut split = Self::create(&folder, tokenizer, shard_tokens, SplitState::default())?;
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
            split.copy(&all, start..border, false)?;
            split.copy(&all, border..end, true)?;
        }
        Ok(split)
    }

    /// Appends the tokens `range` of another store to one side, as a document.
    fn copy(&mut self, from: &TokenStore, range: Range<usize>, holds_out: bool) -> Result<()> {
        self.holds_out = holds_out;
        for start in range.clone().step_by(COPY_TOKENS) {
            let tokens = from.tokens(start..range.end.min(start + COPY_TOKENS))?;
            self.open_side().append(&tokens)?;
            self.next_shards()?;
        }
        self.end_document();
        Ok(())
    }

    /// Gives all files their names.
    ///
    /// # Errors
    /// A full disk.
    pub(crate) fn finish(self, duplicates: Option<DuplicateCounts>) -> Result<DatasetSummary> {
        let (train, held_out) = (&self.train.counts, &self.held_out.counts);
        let all: Vec<u64> = train.iter().zip(held_out).map(|(a, b)| a + b).collect();
        let total: u64 = all.iter().sum();
        let unknown = self.tokenizer.unknown_id();
        Ok(DatasetSummary {
            unigram_entropy: unigram::entropy(&all),
            held_out_unigram_loss: (held_out.iter().any(|&count| count > 0))
                .then(|| unigram::cross_entropy(train, held_out)),
            unknown_share: unknown.map(|id| all[id as usize] as f64 / total as f64),
            split_within_document: self.within_document,
            duplicates,
            train_shards: self.train.writer.finish()?,
            held_out_shards: self.held_out.writer.finish()?,
        })
    }
}
