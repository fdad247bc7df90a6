//! One head among those of a tensor.

use crate::cpu::number::{CacheLine, Number};
use crate::cpu::pack::grow;

/// One head of queries, keys, values or gradients: `n` rows of `d` features, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct HeadRows<'a, T> {
    pub(super) values: &'a [T],
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) features: usize,
}

impl<T: Number> HeadRows<'_, T> {
    /// Words of a row.
    pub(super) fn words(&self) -> usize {
        self.features / T::PER_WORD
    }

    fn row(&self, index: usize) -> &[T] {
        &self.values[index * self.stride..][..self.features]
    }

    /// Copies `count` rows from `first` on, zeros past the last, as words.
    pub(super) fn rows(&self, first: usize, count: usize, out: &mut Vec<CacheLine>) {
        let words = self.words();
        grow(out, count * words);
        let out: &mut [T] = bytemuck::cast_slice_mut(out);
        for (i, to) in out.chunks_exact_mut(self.features).take(count).enumerate() {
            match first + i < self.count {
                true => to.copy_from_slice(self.row(first + i)),
                false => to.fill(T::round(0.0)),
            }
        }
    }
}
