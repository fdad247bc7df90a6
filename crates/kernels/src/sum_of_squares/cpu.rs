//! On the CPU: chunks of a tensor, added in order.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::parallel;

use crate::cpu::isa::{Isa, multiversioned};
use crate::cpu::number::Number;

/// Values a task takes at a time.
const CHUNK: usize = 1 << 16;

/// Independent sums, so that the loop becomes vector additions.
const LANES: usize = 32;

/// Sum of the squares of `values`.
#[inline(always)]
fn sum_of_squares_body<T: Number>(values: &[T]) -> f64 {
    let mut sums = [0f64; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for lanes in whole {
        for (sum, &value) in sums.iter_mut().zip(lanes) {
            let value = f64::from(value.widen());
            *sum += value * value;
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        let value = f64::from(value.widen());
        *sum += value * value;
    }
    sums.iter().sum()
}

multiversioned! {
    /// Sum of the squares of `values`, on `isa`.
    pub(super) fn sum_of_squares_on[T: Number][T](values: &[T]) -> f64 = sum_of_squares_body
}

pub(super) fn sum_in_parallel<T: Number>(values: &[T]) -> f64 {
    let isa = Isa::fastest();
    // Summed in order, so that the result does not depend on the threads.
    let chunks: Vec<&[T]> = values.chunks(CHUNK).collect();
    parallel::map(chunks.len(), |index| sum_of_squares_on(isa, chunks[index])).iter().sum()
}
