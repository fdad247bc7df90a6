//! Where batches come from.

use std::sync::Arc;
use std::time::Duration;

use bert4rs_data::{BatchDigest, BatchSource, Prefetcher, TokenBatch};
use bert4rs_tensor_core::{Device, Error as Core};

use crate::batch::{Batch, BatchSize};
use crate::error::Result;

/// Batches in an order that only their number decides: to go on where a run stopped, its number of
/// batches is all that must be kept.
pub trait Loader {
    /// The next batch, on the device.
    ///
    /// # Errors
    /// What making it can meet; after the last, where there is one.
    fn next(&mut self) -> Result<Batch>;

    /// The number of the batch that comes next, from 0.
    fn position(&self) -> u64;

    /// Makes batch number `position` the next.
    ///
    /// # Errors
    /// What starting anew can meet.
    fn seek(&mut self, position: u64) -> Result<()>;

    /// Makes only every `ranks`-th batch this loader's, from number `rank` on, as the other
    /// processes of a run have the rest. Numbers stay those of all.
    ///
    /// # Errors
    /// A loader that can't, as all that don't implement it; what starting anew can meet.
    fn divide(&mut self, rank: usize, ranks: usize) -> Result<()> {
        if ranks == 1 {
            return Ok(());
        }
        let what = format!("batch {rank} of every {ranks}");
        let reason = "this loader makes all; implement Loader::divide".into();
        Err(Core::Unsupported { what, reason }.into())
    }

    /// Time spent in [`next`](Self::next) waiting for batches.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }
}

/// Every `ranks`-th batch of a source, from number `rank` on.
#[derive(Debug)]
struct RankBatches<S> {
    source: Arc<S>,
    rank: u64,
    ranks: u64,
}

impl<S: BatchSource> BatchSource for RankBatches<S> {
    type Batch = S::Batch;

    fn batch(&self, index: u64) -> bert4rs_data::Result<S::Batch> {
        self.source.batch(index.saturating_mul(self.ranks).saturating_add(self.rank))
    }
}

/// How a [`TokenLoader`] makes its batches.
#[derive(Debug, Clone, Copy)]
pub struct LoaderOptions {
    /// Where tensors go.
    pub device: Device,
    /// The token of padding, which is no part of the fingerprint.
    pub pad: i64,
    /// Whether batches name the positions that count, where others don't: models then compute no
    /// logits for these. The number of positions differs from batch to batch.
    pub counted: bool,
    /// Batches made ahead; 0 makes each when it is asked for.
    pub prefetch: usize,
    /// Threads that make batches ahead.
    pub workers: usize,
}

/// Batches of tokens, made ahead by threads.
pub struct TokenLoader<S: BatchSource> {
    source: Arc<RankBatches<S>>,
    options: LoaderOptions,
    batches: Prefetcher<RankBatches<S>>,
    /// Before the last seek.
    waited_before: Duration,
}

impl<S: BatchSource + 'static> TokenLoader<S> {
    /// Starts with batch number 0.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(source: S, options: LoaderOptions) -> Result<Self> {
        let source = Arc::new(RankBatches { source: Arc::new(source), rank: 0, ranks: 1 });
        let batches = start(&source, &options, 0)?;
        Ok(Self { source, options, batches, waited_before: Duration::ZERO })
    }
}

fn start<S: BatchSource + 'static>(
    source: &Arc<RankBatches<S>>,
    options: &LoaderOptions,
    position: u64,
) -> Result<Prefetcher<RankBatches<S>>> {
    Ok(Prefetcher::new(Arc::clone(source), position, options.prefetch, options.workers)?)
}

impl<S: BatchSource<Batch: TokenBatch> + 'static> Loader for TokenLoader<S> {
    fn next(&mut self) -> Result<Batch> {
        let batch = self.batches.next()?;
        let labels = batch.labels();
        let size = BatchSize {
            tokens: batch.real_tokens() as u64,
            positions: batch.positions() as u64,
            labels: labels.len() as u64,
        };
        let digest = Some(BatchDigest::new(batch.input_ids(), self.options.pad, &labels));
        let tensors = batch.to_tensors(self.options.device)?;
        let tensors = if self.options.counted { tensors } else { tensors.without("counted") };
        Ok(Batch { tensors, size, digest })
    }

    fn position(&self) -> u64 {
        self.batches.next_index() * self.source.ranks
    }

    fn seek(&mut self, position: u64) -> Result<()> {
        self.waited_before += self.batches.waited();
        self.batches = start(&self.source, &self.options, position / self.source.ranks)?;
        Ok(())
    }

    fn divide(&mut self, rank: usize, ranks: usize) -> Result<()> {
        let position = self.position();
        let source = Arc::clone(&self.source.source);
        self.source = Arc::new(RankBatches { source, rank: rank as u64, ranks: ranks as u64 });
        self.seek(position)
    }

    fn waited(&self) -> Duration {
        self.waited_before + self.batches.waited()
    }
}
