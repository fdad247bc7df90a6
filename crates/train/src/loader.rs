//! Where batches come from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

    /// Of several corpora, how much of what was handed over is of each, by name.
    fn shares(&self) -> Option<BTreeMap<String, f64>> {
        None
    }

    /// What a person should know of how batches are made, once.
    fn take_note(&mut self) -> Option<String> {
        None
    }
}

/// Batches that are made ahead where it pays to.
pub(crate) const AUTO_DEPTH: usize = 4;
/// Batches before those that are timed, and those.
const AUTO_WARM_UP: u32 = 2;
const AUTO_TIMED: u32 = 8;
/// Shares of a step's time that batches take, above which it pays: on a GPU or with an idle core,
/// and where a thread ahead takes time from those that compute.
const PAYS_BESIDE: f64 = 0.005;
const PAYS_WITHIN: f64 = 0.1;

/// How many batches are made ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// So many; 0 makes each when it is asked for.
    Batches(usize),
    /// As the first batches show what pays: whether a core is free for it is told.
    Auto {
        /// Whether threads that make batches take no time from those that compute.
        has_free_core: bool,
    },
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
    /// Batches made ahead.
    pub prefetch: Ahead,
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
    /// What was handed over of each corpus.
    names: Vec<String>,
    tokens: Vec<u64>,
    /// Until it is known what pays.
    trial: Option<Trial>,
    note: Option<String>,
}

/// Batches that are timed.
#[derive(Debug)]
struct Trial {
    taken: u32,
    /// When the first that is timed was asked for, and how long was waited until then.
    began: Option<(Instant, Duration)>,
}

impl<S: BatchSource + 'static> TokenLoader<S> {
    /// Starts with batch number 0.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(source: S, options: LoaderOptions) -> Result<Self> {
        let source = Arc::new(RankBatches { source: Arc::new(source), rank: 0, ranks: 1 });
        let batches = start(&source, options.prefetch, options.workers, 0)?;
        let trial = match options.prefetch {
            Ahead::Auto { .. } => Some(Trial { taken: 0, began: None }),
            Ahead::Batches(_) => None,
        };
        let (waited_before, names, tokens) = (Duration::ZERO, Vec::new(), Vec::new());
        Ok(Self { source, options, batches, waited_before, names, tokens, trial, note: None })
    }

    /// The same for batches of several corpora of these names.
    pub fn with_names(self, names: Vec<String>) -> Self {
        Self { names, ..self }
    }

    /// Times batches, and decides when enough were.
    fn measure(&mut self) -> Result<()> {
        let Some(trial) = &mut self.trial else { return Ok(()) };
        let waited = self.waited_before + self.batches.waited();
        trial.taken += 1;
        if trial.taken == AUTO_WARM_UP {
            trial.began = Some((Instant::now(), waited));
        }
        let (Some((began, before)), true) = (trial.began, trial.taken == AUTO_WARM_UP + AUTO_TIMED)
        else {
            return Ok(());
        };
        let share = (waited - before).as_secs_f64() / began.elapsed().as_secs_f64().max(1e-9);
        let has_free_core = self.options.prefetch == Ahead::Auto { has_free_core: true };
        let pays = share > if has_free_core { PAYS_BESIDE } else { PAYS_WITHIN };
        self.trial = None;
        let how = if pays {
            format!("{AUTO_DEPTH} are made ahead")
        } else {
            "the loop makes them".into()
        };
        let percent = 100.0 * share;
        self.note = Some(format!("batches    take {percent:.2}% of the first steps: {how}"));
        self.options.prefetch = Ahead::Batches(if pays { AUTO_DEPTH } else { 0 });
        self.restart(self.batches.next_index())
    }

    /// Goes on with the rank's batch `index`.
    fn restart(&mut self, index: u64) -> Result<()> {
        self.waited_before += self.batches.waited();
        let Self { source, options, .. } = self;
        self.batches = start(source, options.prefetch, options.workers, index)?;
        Ok(())
    }
}

fn start<S: BatchSource + 'static>(
    source: &Arc<RankBatches<S>>,
    prefetch: Ahead,
    workers: usize,
    index: u64,
) -> Result<Prefetcher<RankBatches<S>>> {
    let depth = match prefetch {
        Ahead::Batches(count) => count,
        Ahead::Auto { .. } => 0,
    };
    Ok(Prefetcher::new(Arc::clone(source), index, depth, workers)?)
}

impl<S: BatchSource<Batch: TokenBatch> + 'static> Loader for TokenLoader<S> {
    fn next(&mut self) -> Result<Batch> {
        let batch = self.batches.next()?;
        self.measure()?;
        self.tokens.resize(batch.part_tokens().len(), 0);
        self.tokens.iter_mut().zip(batch.part_tokens()).for_each(|(sum, tokens)| *sum += tokens);
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
        self.restart(position / self.source.ranks)
    }

    fn shares(&self) -> Option<BTreeMap<String, f64>> {
        let total = self.tokens.iter().sum::<u64>().max(1) as f64;
        let share = |(name, tokens): (&String, &u64)| (name.clone(), *tokens as f64 / total);
        (self.names.len() > 1).then(|| self.names.iter().zip(&self.tokens).map(share).collect())
    }

    fn take_note(&mut self) -> Option<String> {
        self.note.take()
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
