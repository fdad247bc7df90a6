//! In which order sequences are shown: every one once an epoch, shuffled anew each time.

use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;

use crate::random::{Purpose, stream};

/// Epochs whose order is kept: batches cross from one to the next.
const KEPT_EPOCHS: usize = 2;

/// Endless epochs of shuffled sequences, any position of which can be asked for.
#[derive(Debug)]
pub(crate) struct ShuffledEpochs {
    seed: u64,
    count: u32,
    recent: Mutex<Vec<(u64, Arc<[u32]>)>>,
}

impl ShuffledEpochs {
    /// Epochs of the sequences `0..count`.
    pub(crate) fn new(seed: u64, count: u32) -> Self {
        Self { seed, count, recent: Mutex::new(Vec::new()) }
    }

    /// The epoch and the sequence at `position`, counted from the first epoch's begin.
    pub(crate) fn at(&self, position: u64) -> (u64, usize) {
        let count = u64::from(self.count);
        let (epoch, index) = (position / count, position % count);
        (epoch, self.order(epoch)[index as usize] as usize)
    }

    fn order(&self, epoch: u64) -> Arc<[u32]> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(known, _)| *known == epoch) {
            return Arc::clone(order);
        }
        let order: Arc<[u32]> = shuffled(self.seed, epoch, self.count).into();
        if recent.len() == KEPT_EPOCHS {
            recent.remove(0);
        }
        recent.push((epoch, Arc::clone(&order)));
        order
    }
}

/// The order of one epoch: a permutation of `0..count` that depends on nothing else.
fn shuffled(seed: u64, epoch: u64, count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    order.shuffle(&mut stream(Purpose::Order, seed, epoch, 0));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_shows_every_sequence_once_in_another_order() {
        let epochs = ShuffledEpochs::new(7, 50);
        let show = |epoch: u64| -> Vec<usize> {
            (epoch * 50..(epoch + 1) * 50).map(|position| epochs.at(position).1).collect()
        };
        let (first, second) = (show(0), show(1));
        assert_ne!(first, second);
        for mut order in [first.clone(), second] {
            order.sort_unstable();
            assert_eq!(order, (0..50).collect::<Vec<_>>());
        }
        assert_eq!(show(9).len(), 50);
        assert_eq!(first, show(0), "the order was forgotten and made anew");
    }
}
