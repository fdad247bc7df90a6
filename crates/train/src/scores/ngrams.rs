//! Runs of items, counted.

use std::collections::HashMap;
use std::hash::Hash;

/// How often each run of `length` items occurs.
pub(super) fn count<T: Eq + Hash>(items: &[T], length: usize) -> HashMap<&[T], usize> {
    let mut counts = HashMap::new();
    for run in items.windows(length) {
        *counts.entry(run).or_insert(0) += 1;
    }
    counts
}

/// How many runs both have, each as often as the one that has fewer of it.
pub(super) fn shared<T: Eq + Hash>(
    left: &HashMap<&[T], usize>,
    right: &HashMap<&[T], usize>,
) -> usize {
    left.iter().map(|(run, count)| right.get(run).map_or(0, |other| *count.min(other))).sum()
}
