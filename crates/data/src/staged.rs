//! Short sequences first, then long ones.
//!
//! Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>, appendix A.2: BERT was trained with 128
//! tokens a sequence for nine tenths of its steps, and with 512 for the rest, to learn the
//! positions.

use crate::error::Result;
use crate::prefetch::BatchSource;

/// The batches of one source up to a number, then those of another, each from its first on.
#[derive(Debug)]
pub struct Staged<S> {
    first: Option<(S, u64)>,
    then: S,
}

impl<S> Staged<S> {
    /// The batches of `then` alone.
    pub fn only(then: S) -> Self {
        Self { first: None, then }
    }

    /// The first `batches` batches of `first`, then those of `then`.
    pub fn new(first: S, batches: u64, then: S) -> Self {
        Self { first: Some((first, batches)), then }
    }
}

impl<S: BatchSource> BatchSource for Staged<S> {
    type Batch = S::Batch;

    fn batch(&self, index: u64) -> Result<S::Batch> {
        match &self.first {
            Some((first, batches)) if index < *batches => first.batch(index),
            Some((_, batches)) => self.then.batch(index - batches),
            None => self.then.batch(index),
        }
    }
}
