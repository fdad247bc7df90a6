//! Which sequences a batch shows, and which tokens each of them holds.

use std::ops::Range;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::mixture::{Mixture, Turns};
use crate::order::ShuffledEpochs;
use crate::packing::{Fit, Framing, LastSequence, Packing, PackingReport};
use crate::random::{Purpose, stream};
use crate::shard::TokenStore;

/// Where, in what tells sequences' random numbers apart, the number of the corpus stands.
const PART_SHIFT: u32 = 48;

/// Sequences that tell what the others are like.
const LOOKED_AT: usize = 4096;

/// A sequence of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The corpus, of several.
    pub(crate) part: usize,
    pub(crate) epoch: u64,
    pub(crate) sequence: usize,
}

/// How sequences are made of documents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SequenceOptions {
    pub(crate) framing: Framing,
    pub(crate) length: usize,
    pub(crate) batch_size: usize,
    pub(crate) fit: Fit,
    pub(crate) seed: u64,
}

/// The sequences of one corpus, or of several, in the order that batches show them.
#[derive(Debug)]
pub(crate) struct Sequences {
    parts: Vec<Part>,
    turns: Turns,
    options: SequenceOptions,
}

/// A corpus.
#[derive(Debug)]
struct Part {
    store: Arc<TokenStore>,
    packing: Packing,
    /// Endless, with new random choices each epoch; without it, each sequence comes once, with the
    /// same random choices always.
    epochs: Option<ShuffledEpochs>,
}

impl Sequences {
    /// Endless, for full batches: each epoch of a corpus shows every sequence of it once, in
    /// another order, and batches cross from epoch to epoch. A last sequence that the documents
    /// don't fill is left out, unless it is the only one.
    ///
    /// # Errors
    /// Sizes that can't be used, and a corpus without tokens.
    pub(crate) fn train(mixture: &Mixture, options: SequenceOptions) -> Result<Self> {
        let mut parts = Vec::new();
        for ((store, _), number) in mixture.parts().iter().zip(0u64..) {
            let packing = pack(store, &options, LastSequence::DropPartial)?;
            let epochs = ShuffledEpochs::new(options.seed, number, packing.len() as u64);
            parts.push(Part { store: Arc::clone(store), packing, epochs: Some(epochs) });
        }
        let weights: Vec<f64> = mixture.parts().iter().map(|(_, weight)| *weight).collect();
        Ok(Self { parts, turns: Turns::new(options.seed, &weights), options })
    }

    /// Every sequence once, in order. The last batch may have fewer, and its last sequence
    /// padding.
    ///
    /// # Errors
    /// As [`train`](Self::train).
    pub(crate) fn held_out(store: Arc<TokenStore>, options: SequenceOptions) -> Result<Self> {
        let packing = pack(&store, &options, LastSequence::Pad)?;
        let parts = vec![Part { store, packing, epochs: None }];
        Ok(Self { parts, turns: Turns::new(options.seed, &[1.0]), options })
    }

    /// The tokens of a corpus.
    pub(crate) fn store(&self, part: usize) -> &TokenStore {
        &self.parts[part].store
    }

    /// Number of corpora.
    pub(crate) fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// How sequences are made.
    pub(crate) fn fit(&self) -> Fit {
        self.options.fit
    }

    /// Number of sequences that the documents give.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.packing.len()).sum()
    }

    /// All sequences, as the first epoch has them.
    pub(crate) fn all(&self) -> impl Iterator<Item = Shown> {
        self.parts.iter().enumerate().flat_map(|(part, of)| {
            (0..of.packing.len()).map(move |sequence| Shown { part, epoch: 0, sequence })
        })
    }

    /// What packing did to the documents of each corpus.
    pub(crate) fn reports(&self) -> Vec<PackingReport> {
        self.parts.iter().map(|part| part.packing.report()).collect()
    }

    /// Batches that show as many sequences as there are, the last of them perhaps not full. Of one
    /// corpus, each is shown once.
    pub(crate) fn batches_per_epoch(&self) -> u64 {
        self.len().div_ceil(self.options.batch_size) as u64
    }

    /// The sequences of a batch.
    ///
    /// # Errors
    /// A number beyond the last, where there is one.
    pub(crate) fn of_batch(&self, batch: u64) -> Result<Vec<Shown>> {
        let size = self.options.batch_size as u64;
        let count = match self.parts[0].epochs {
            Some(_) => u64::MAX / size,
            None => self.batches_per_epoch(),
        };
        let first = batch.checked_mul(size).filter(|_| batch < count);
        let first = first.ok_or(Error::NoSuchBatch { index: batch, count })?;
        Ok(match self.parts[0].epochs {
            Some(_) => {
                (first..first.saturating_add(size)).map(|position| self.at(position)).collect()
            }
            None => (first..(first + size).min(self.len() as u64))
                .map(|sequence| Shown { part: 0, epoch: 0, sequence: sequence as usize })
                .collect(),
        })
    }

    /// The sequence at a position of training.
    fn at(&self, position: u64) -> Shown {
        let (part, index) = self.turns.at(position);
        match &self.parts[part].epochs {
            Some(epochs) => {
                let (epoch, sequence) = epochs.at(index);
                Shown { part, epoch, sequence: sequence as usize }
            }
            None => Shown { part, epoch: 0, sequence: index as usize },
        }
    }

    /// The tokens of each piece of a sequence, in order.
    pub(crate) fn pieces(&self, shown: Shown) -> Box<dyn Iterator<Item = Range<usize>> + '_> {
        let Part { store, packing, .. } = &self.parts[shown.part];
        packing.pieces(store.offsets(), shown.sequence)
    }

    /// The numbers of tokens of each piece in the first sequences: what rows are like.
    pub(crate) fn piece_lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.all().take(LOOKED_AT).flat_map(|shown| self.pieces(shown)).map(|piece| piece.len())
    }

    /// What decides by chance which tokens of the sequence are hidden.
    pub(crate) fn mask_stream(&self, shown: Shown) -> ChaCha8Rng {
        let purpose = match self.parts[shown.part].epochs {
            Some(_) => Purpose::TrainMask,
            None => Purpose::HeldOutMask,
        };
        let sequence = shown.sequence as u64 | (shown.part as u64) << PART_SHIFT;
        stream(purpose, self.options.seed, shown.epoch, sequence)
    }
}

fn pack(store: &TokenStore, options: &SequenceOptions, last: LastSequence) -> Result<Packing> {
    if options.batch_size == 0 {
        return Err(Error::setting("the batch size", 0, "at least 1"));
    }
    Packing::new(store.offsets(), options.framing, options.length, options.fit, last)
}
