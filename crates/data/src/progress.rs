//! How far a preparation is, told to whoever asked for it.

use std::cell::Cell;

/// What a preparation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Another process prepares the same data.
    WaitForOther,
    /// Looking for documents that occur more than once, in bytes of text.
    Compare,
    /// Counting the words to train a tokenizer on, in bytes of text.
    CountWords,
    /// Building a vocabulary, in tokens.
    TrainTokenizer,
    /// Writing the tokens of all documents, in bytes of text.
    Tokenize,
    /// Comparing a prepared dataset with its checksums, in tokens.
    Verify,
}

impl Phase {
    /// A few words for a progress line.
    pub fn label(self) -> &'static str {
        match self {
            Self::WaitForOther => "waiting for another process that prepares the same data",
            Self::Compare => "looking for duplicates",
            Self::CountWords => "counting words",
            Self::TrainTokenizer => "training the tokenizer",
            Self::Tokenize => "tokenizing",
            Self::Verify => "verifying the prepared tokens",
        }
    }
}

/// One report of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// How much of it is done.
    pub done: u64,
    /// How much there is to do; 0 where that is not known.
    pub total: u64,
}

/// Adds up what is done in one phase.
pub(crate) struct ProgressMeter {
    phase: Phase,
    done: Cell<u64>,
    total: u64,
}

impl ProgressMeter {
    pub(crate) fn new(phase: Phase, total: u64) -> Self {
        Self { phase, done: Cell::new(0), total }
    }

    pub(crate) fn advance(&self, by: u64, report: &mut dyn FnMut(Progress)) {
        self.report(self.done.get() + by, report);
    }

    pub(crate) fn report(&self, done: u64, report: &mut dyn FnMut(Progress)) {
        self.done.set(done);
        report(Progress { phase: self.phase, done, total: self.total });
    }
}
