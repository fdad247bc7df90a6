//! Which examples a batch shows: a function of the seed and the batch's number, so that a run can
//! go on anywhere.

use std::rc::Rc;

use bert4rs_data::{BatchDigest, Layout};
use bert4rs_tensor_core::Device;

use super::FinetuneTask;
use super::example::Example;
use super::rows::to_device;
use crate::batch::{Batch, BatchSize};
use crate::error::Result;
use crate::loader::Loader;
use crate::scores::bootstrap::SplitMix;

/// How examples become batches.
#[derive(Debug, Clone, Copy)]
pub struct BatchOptions {
    /// Examples a batch.
    pub batch_size: usize,
    /// How they lie in rows.
    pub layout: Layout,
    /// Whether batches hold examples of like length, in an order that is still drawn.
    pub group_by_length: bool,
    /// Where tensors go.
    pub device: Device,
}

/// Batches within which like lengths are sought.
const GROUP: usize = 50;

/// Batches of examples in a new order in each pass.
pub struct ExampleLoader<T: FinetuneTask> {
    task: Rc<T>,
    examples: Rc<[Example<T::Label>]>,
    options: BatchOptions,
    seed: u64,
    /// Of this loader's own batches, the number of the next.
    next: u64,
    /// This process among those that share the batches, and how many there are.
    rank: (u64, u64),
    /// The pass whose order this is.
    pass: Option<u64>,
    order: Vec<usize>,
}

impl<T: FinetuneTask> ExampleLoader<T> {
    /// Batches of `examples`, at least one, in orders that follow from `seed`.
    pub fn new(
        task: Rc<T>,
        examples: Rc<[Example<T::Label>]>,
        options: BatchOptions,
        seed: u64,
    ) -> Self {
        let (rank, order) = ((0, 1), Vec::new());
        Self { task, examples, options, seed, next: 0, rank, pass: None, order }
    }

    /// Batches that show every example once.
    pub fn batches_per_epoch(&self) -> u64 {
        self.examples.len().div_ceil(self.options.batch_size).max(1) as u64
    }

    fn order_of(&self, pass: u64) -> Vec<usize> {
        let mut random = SplitMix(self.seed.wrapping_mul(0xA076_1D64_78BD_642F) ^ pass);
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        shuffle(&mut order, &mut random);
        if self.options.group_by_length {
            let size = self.options.batch_size;
            for group in order.chunks_mut(GROUP * size) {
                group.sort_by_key(|&at| self.examples[at].tokens());
            }
            // Whole batches change places, the last of a pass stays, as it may be smaller.
            let whole = order.len() / size;
            let mut places: Vec<usize> = (0..whole).collect();
            shuffle(&mut places, &mut random);
            let rest = order[whole * size..].to_vec();
            let mixed = places.iter().flat_map(|&at| order[at * size..(at + 1) * size].to_vec());
            order = mixed.chain(rest).collect();
        }
        order
    }
}

fn shuffle(items: &mut [usize], random: &mut SplitMix) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last + 1));
    }
}

impl<T: FinetuneTask> Loader for ExampleLoader<T> {
    fn next(&mut self) -> Result<Batch> {
        let batches = self.batches_per_epoch();
        let (rank, ranks) = self.rank;
        let next = self.next * ranks + rank;
        let (pass, number) = (next / batches, (next % batches) as usize);
        if self.pass != Some(pass) {
            (self.order, self.pass) = (self.order_of(pass), Some(pass));
        }
        self.next += 1;
        let size = self.options.batch_size;
        let end = ((number + 1) * size).min(self.order.len());
        let chosen: Vec<_> =
            self.order[number * size..end].iter().map(|&at| &self.examples[at]).collect();
        collate(&*self.task, &chosen, self.options)
    }

    fn position(&self) -> u64 {
        self.next * self.rank.1
    }

    fn seek(&mut self, position: u64) -> Result<()> {
        self.next = position / self.rank.1;
        Ok(())
    }

    fn divide(&mut self, rank: usize, ranks: usize) -> Result<()> {
        let position = self.position();
        self.rank = (rank as u64, ranks as u64);
        self.seek(position)
    }
}

/// A batch of `examples`, with their labels where each has one.
///
/// # Errors
/// What libtorch throws.
pub fn collate<T: FinetuneTask>(
    task: &T,
    examples: &[&Example<T::Label>],
    options: BatchOptions,
) -> Result<Batch> {
    let frame = task.model().frame;
    let rows = task.rows(examples, options.layout);
    let mut tensors = rows.tensors(frame);
    let (more, count) = task.tensors(examples, &rows)?;
    tensors.extend(more);
    let size = BatchSize { tokens: rows.real(), positions: rows.positions(), labels: count };
    let digest = Some(BatchDigest::new(&rows.ids, frame.pad, &[]));
    Ok(Batch { tensors: to_device(tensors, options.device), size, digest })
}
