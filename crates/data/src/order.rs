//! In which order sequences are shown: every one once an epoch, shuffled anew each time.

use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;
use rand::seq::SliceRandom;

use crate::random::{Purpose, split_mix, stream};

/// Epochs whose order is kept: batches cross from one to the next.
const KEPT_EPOCHS: usize = 2;
/// More sequences are not shuffled in memory: their place is computed.
const MOST_IN_MEMORY: u64 = 1 << 24;

/// Endless epochs of shuffled sequences, any position of which can be asked for.
#[derive(Debug)]
pub(crate) struct ShuffledEpochs {
    seed: u64,
    /// Tells the orders of several corpora apart.
    part: u64,
    count: u64,
    recent: Mutex<Vec<(u64, Order)>>,
}

/// The order of one epoch.
#[derive(Debug, Clone)]
enum Order {
    Listed(Arc<[u32]>),
    Computed(Permutation),
}

impl ShuffledEpochs {
    /// Epochs of the sequences `0..count`.
    pub(crate) fn new(seed: u64, part: u64, count: u64) -> Self {
        Self { seed, part, count: count.max(1), recent: Mutex::new(Vec::new()) }
    }

    /// The epoch and the sequence at `position`, counted from the first epoch's begin.
    pub(crate) fn at(&self, position: u64) -> (u64, u64) {
        let (epoch, index) = (position / self.count, position % self.count);
        let sequence = match self.order(epoch) {
            Order::Listed(order) => order[index as usize].into(),
            Order::Computed(permutation) => permutation.at(index),
        };
        (epoch, sequence)
    }

    fn order(&self, epoch: u64) -> Order {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(known, _)| *known == epoch) {
            return order.clone();
        }
        let order = match u32::try_from(self.count) {
            Ok(count) if self.count <= MOST_IN_MEMORY => {
                Order::Listed(shuffled(self.seed, epoch, self.part, count).into())
            }
            _ => Order::Computed(Permutation::new(self.seed, epoch, self.part, self.count)),
        };
        if recent.len() == KEPT_EPOCHS {
            recent.remove(0);
        }
        recent.push((epoch, order.clone()));
        order
    }
}

/// A permutation of `0..count` that depends on nothing else.
fn shuffled(seed: u64, epoch: u64, part: u64, count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    order.shuffle(&mut stream(Purpose::Order, seed, epoch, part));
    order
}

/// A permutation of `0..count` of which each place is computed by itself: a Feistel network (Luby
/// and Rackoff 1988) of six rounds on the next even number of bits, applied again while it leads
/// beyond `count` (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
#[derive(Debug, Clone, Copy)]
struct Permutation {
    count: u64,
    half_bits: u32,
    keys: [u64; 6],
}

impl Permutation {
    fn new(seed: u64, epoch: u64, part: u64, count: u64) -> Self {
        let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
        let mut random = stream(Purpose::LargeOrder, seed, epoch, part);
        let keys = std::array::from_fn(|_| random.random());
        Self { count, half_bits: bits.div_ceil(2).max(1), keys }
    }

    fn at(&self, index: u64) -> u64 {
        let mut place = self.permute(index);
        // Of at most four times as many numbers, one in four or more is below `count`.
        while place >= self.count {
            place = self.permute(place);
        }
        place
    }

    fn permute(&self, index: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (index >> self.half_bits, index & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (split_mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_shows_every_sequence_once_in_another_order() {
        let epochs = ShuffledEpochs::new(7, 0, 50);
        let show = |epoch: u64| -> Vec<u64> {
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

    #[test]
    fn computed_orders_are_permutations() {
        for count in [1, 2, 3, 17, 1000, 4096, 4097] {
            let of = |epoch| {
                let permutation = Permutation::new(5, epoch, 0, count);
                (0..count).map(|index| permutation.at(index)).collect::<Vec<u64>>()
            };
            let (first, second) = (of(0), of(1));
            assert!(count < 17 || first != second);
            for mut order in [first, second] {
                order.sort_unstable();
                assert_eq!(order, (0..count).collect::<Vec<_>>(), "of {count}");
            }
        }
    }

    #[test]
    fn more_sequences_than_32_bits_count_are_shown_in_any_order() {
        let count = (1u64 << 33) + 12_345;
        let epochs = ShuffledEpochs::new(3, 0, count);
        let mut shown: Vec<u64> = (0..20_000).map(|position| epochs.at(position).1).collect();
        assert!(shown.iter().all(|&sequence| sequence < count));
        assert!(shown.iter().any(|&sequence| sequence > u64::from(u32::MAX)));
        // Their mean, and what neighbours have to do with each other, are those of chance: the
        // standard deviation of the mean is 0.29 / sqrt(20,000) of the whole.
        let unit = |sequence: u64| sequence as f64 / count as f64 - 0.5;
        let mean = shown.iter().map(|&at| unit(at)).sum::<f64>() / 20_000.0;
        let product: f64 = shown.windows(2).map(|pair| unit(pair[0]) * unit(pair[1])).sum();
        assert!(mean.abs() < 0.009, "{mean}");
        assert!((product / 20_000.0).abs() < 0.0025, "{product}");
        shown.sort_unstable();
        assert!(shown.windows(2).all(|pair| pair[0] < pair[1]), "one was shown twice");
        assert_eq!(epochs.at(5 * count + 7).0, 5);
    }
}
