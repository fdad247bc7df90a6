//! Parallel work on a stream, with results in order and memory bounded.

use rayon::prelude::*;

use crate::error::Result;

/// Items in flight for each thread: enough that uneven ones don't leave threads idle.
const ITEMS_PER_THREAD: usize = 4;

/// Maps `items` by `work` on all threads of the current pool, and hands the results to `finish`
/// on this thread, in the order of the items whatever the number of threads.
///
/// # Errors
/// The first error, in the order of the items.
pub(crate) fn ordered_parallel<T: Send, R: Send>(
    items: impl Iterator<Item = Result<T>>,
    work: impl Fn(T) -> Result<R> + Sync,
    mut finish: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let size = rayon::current_num_threads() * ITEMS_PER_THREAD;
    let mut items = items.fuse();
    loop {
        let batch: Vec<Result<T>> = items.by_ref().take(size).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let results: Vec<Result<R>> =
            batch.into_par_iter().map(|item| item.and_then(&work)).collect();
        for result in results {
            finish(result?)?;
        }
    }
}
