//! Which sequences a batch shows, and which tokens each of them holds.

use std::ops::Range;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::order::ShuffledEpochs;
use crate::packing::{Framing, LastSequence, Packing};
use crate::random::{Purpose, stream};
use crate::shard::TokenShard;

/// Sequences that tell what the others are like.
const LOOKED_AT: usize = 4096;

/// A sequence of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) epoch: u64,
    pub(crate) sequence: usize,
}

/// The sequences of a token file, in the order that batches show them.
#[derive(Debug)]
pub(crate) struct Sequences {
    shard: Arc<TokenShard>,
    packing: Packing,
    order: Order,
    batch_size: usize,
    seed: u64,
}

#[derive(Debug)]
enum Order {
    /// Endless, with new random choices each epoch.
    Shuffled(ShuffledEpochs),
    /// Each sequence once, with the same random choices always.
    Once,
}

impl Sequences {
    /// Endless, for full batches: each epoch shows every sequence once, in another order, and
    /// batches cross from epoch to epoch. A last sequence that the documents don't fill is left
    /// out, unless it is the only one.
    ///
    /// # Errors
    /// Sizes that can't be used, and a file without tokens.
    pub(crate) fn train(
        shard: Arc<TokenShard>,
        framing: Framing,
        length: usize,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self> {
        let packing = pack(&shard, framing, length, batch_size, LastSequence::DropPartial)?;
        let count = u32::try_from(packing.len()).map_err(|_| {
            let expected = format!("at most {}", u32::MAX);
            Error::setting("the number of sequences", packing.len(), expected)
        })?;
        let order = Order::Shuffled(ShuffledEpochs::new(seed, count));
        Ok(Self { shard, packing, order, batch_size, seed })
    }

    /// Every sequence once, in order. The last batch may have fewer, and its last sequence
    /// padding.
    ///
    /// # Errors
    /// As [`train`](Self::train).
    pub(crate) fn held_out(
        shard: Arc<TokenShard>,
        framing: Framing,
        length: usize,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self> {
        let packing = pack(&shard, framing, length, batch_size, LastSequence::Pad)?;
        Ok(Self { shard, packing, order: Order::Once, batch_size, seed })
    }

    /// The tokens.
    pub(crate) fn shard(&self) -> &TokenShard {
        &self.shard
    }

    /// Number of sequences that the documents give.
    pub(crate) fn len(&self) -> usize {
        self.packing.len()
    }

    /// Batches that show every sequence once, the last of them perhaps not full.
    pub(crate) fn batches_per_epoch(&self) -> u64 {
        self.packing.len().div_ceil(self.batch_size) as u64
    }

    /// The sequences of a batch.
    ///
    /// # Errors
    /// A number beyond the last, where there is one.
    pub(crate) fn of_batch(&self, batch: u64) -> Result<Vec<Shown>> {
        let size = self.batch_size as u64;
        match &self.order {
            Order::Shuffled(epochs) => {
                let first = batch
                    .checked_mul(size)
                    .ok_or(Error::NoSuchBatch { index: batch, count: u64::MAX / size })?;
                let positions = first..first.saturating_add(size);
                Ok(positions
                    .map(|position| epochs.at(position))
                    .map(|(epoch, sequence)| Shown { epoch, sequence })
                    .collect())
            }
            Order::Once => {
                let count = self.batches_per_epoch();
                if batch >= count {
                    return Err(Error::NoSuchBatch { index: batch, count });
                }
                let end = ((batch + 1) * size).min(self.packing.len() as u64);
                Ok((batch * size..end)
                    .map(|sequence| Shown { epoch: 0, sequence: sequence as usize })
                    .collect())
            }
        }
    }

    /// The tokens of each piece of a sequence, in order.
    pub(crate) fn pieces(&self, sequence: usize) -> impl Iterator<Item = Range<usize>> + use<'_> {
        self.packing.pieces(self.shard.offsets(), sequence)
    }

    /// The numbers of tokens of each piece in the first sequences: what rows are like.
    pub(crate) fn piece_lengths(&self) -> impl Iterator<Item = usize> + '_ {
        let some = self.len().min(LOOKED_AT);
        (0..some).flat_map(|sequence| self.pieces(sequence)).map(|piece| piece.len())
    }

    /// What decides by chance which tokens of the sequence are hidden.
    pub(crate) fn mask_stream(&self, shown: Shown) -> ChaCha8Rng {
        let purpose = match self.order {
            Order::Shuffled(_) => Purpose::TrainMask,
            Order::Once => Purpose::HeldOutMask,
        };
        stream(purpose, self.seed, shown.epoch, shown.sequence as u64)
    }
}

fn pack(
    shard: &TokenShard,
    framing: Framing,
    length: usize,
    batch_size: usize,
    last: LastSequence,
) -> Result<Packing> {
    if batch_size == 0 {
        return Err(Error::setting("the batch size", 0, "at least 1"));
    }
    Packing::new(shard.offsets(), framing, length, last)
}
