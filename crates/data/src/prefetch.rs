//! Batches made ahead of time by worker threads, delivered in order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use bert4rs_tensor_core::error::panic_text;
use bert4rs_tensor_core::profile::span;

use crate::error::{Error, Result};

/// Numbered batches, each of which can be made by itself.
pub trait BatchSource: Send + Sync {
    /// What is made.
    type Batch: Send;

    /// Makes batch number `index`, the same each time.
    ///
    /// # Errors
    /// There is no such batch, or it can't be made.
    fn batch(&self, index: u64) -> Result<Self::Batch>;
}

/// Delivers batches `first`, `first + 1`, ... of a source, made ahead by worker threads.
///
/// Worker `w` of `n` makes every `n`-th batch, into a queue of its own. So batches come in order
/// without being sorted, and a full queue holds its worker back.
#[derive(Debug)]
pub struct Prefetcher<S: BatchSource> {
    source: Arc<S>,
    next: u64,
    workers: Vec<Worker<S::Batch>>,
    turn: usize,
    waited: Duration,
}

#[derive(Debug)]
struct Worker<B> {
    /// `None` only while it is being stopped.
    batches: Option<Receiver<Result<B>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: BatchSource + 'static> Prefetcher<S> {
    /// Starts making batches from number `first` on, with at least `depth` and fewer than
    /// `depth + workers` made ahead. With `depth` 0 there are no threads, and each batch is made
    /// when it is asked for. There are never more workers than `depth`, and at least one.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(source: Arc<S>, first: u64, depth: usize, workers: usize) -> Result<Self> {
        let count = workers.max(1).min(depth);
        let mut prefetcher =
            Self { source, next: first, workers: Vec::new(), turn: 0, waited: Duration::ZERO };
        for number in 0..count {
            // A worker that waits for room holds one batch in its hand beside the queue.
            let (sender, batches) = sync_channel(depth.div_ceil(count) - 1);
            let source = Arc::clone(&prefetcher.source);
            let indices = (first.saturating_add(number as u64)..).step_by(count);
            let thread = Builder::new()
                .name(format!("batches-{number}"))
                .spawn(move || work(&*source, indices, &sender))
                .map_err(|error| Error::Worker {
                    index: first,
                    reason: format!("the system gives no thread: {error}"),
                })?;
            let worker = Worker { batches: Some(batches), thread: Some(thread) };
            prefetcher.workers.push(worker);
        }
        Ok(prefetcher)
    }

    /// The next batch, waiting for it if need be.
    ///
    /// # Errors
    /// What the source answers for this batch, and a panic inside it. The next call goes on with
    /// the next batch.
    #[expect(clippy::should_implement_trait, reason = "an endless source of results")]
    pub fn next(&mut self) -> Result<S::Batch> {
        let _span = span("data wait");
        let started = Instant::now();
        let index = self.next;
        let batch = match self.workers.get(self.turn) {
            None => make(&*self.source, index),
            Some(worker) => {
                let received = worker.batches.as_ref().map(Receiver::recv);
                received.and_then(std::result::Result::ok).unwrap_or_else(|| {
                    Err(Error::Worker { index, reason: "its thread has ended".into() })
                })
            }
        };
        self.turn = (self.turn + 1) % self.workers.len().max(1);
        self.next += 1;
        self.waited += started.elapsed();
        batch
    }

    /// Where batches come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The number of the batch that comes next.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// How long calls of [`next`](Self::next) took, all together.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl<S: BatchSource> Drop for Prefetcher<S> {
    fn drop(&mut self) {
        // Without a receiver, a worker that waits for room stops at once, and any other when its
        // batch is made.
        for worker in &mut self.workers {
            worker.batches = None;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn work<S: BatchSource>(
    source: &S,
    indices: impl Iterator<Item = u64>,
    batches: &SyncSender<Result<S::Batch>>,
) {
    for index in indices {
        if batches.send(make(source, index)).is_err() {
            return;
        }
    }
}

/// Makes a batch, and turns a panic into an error.
fn make<S: BatchSource>(source: &S, index: u64) -> Result<S::Batch> {
    let _span = span("make a batch");
    catch_unwind(AssertUnwindSafe(|| source.batch(index))).unwrap_or_else(|payload| {
        let reason = format!("panicked: {}", panic_text(payload.as_ref()));
        Err(Error::Worker { index, reason })
    })
}
