//! Rows whose end does not fill a vector: the last numbers are read with zeros behind them.

use crate::cpu::lanes::{LANES, Lanes};
use crate::cpu::number::Number;

/// A row's numbers from the first on, or what is left of it: then zeros follow.
#[inline(always)]
pub(crate) fn read<V: Lanes, T: Number, const TAIL: bool>(from: &[T]) -> V {
    if !TAIL {
        return V::read(from);
    }
    let mut padded = [T::zeroed(); LANES];
    padded[..from.len()].copy_from_slice(from);
    V::read(&padded)
}

/// The reverse of [`read`]: what follows in `value` is dropped.
#[inline(always)]
pub(crate) fn write<V: Lanes, T: Number, const TAIL: bool>(value: V, to: &mut [T]) {
    if !TAIL {
        return value.write(to);
    }
    let mut padded = [T::zeroed(); LANES];
    value.write(&mut padded);
    let count = to.len();
    to.copy_from_slice(&padded[..count]);
}

/// Where a row's whole vectors end.
pub(crate) fn whole(features: usize) -> usize {
    features / LANES * LANES
}
