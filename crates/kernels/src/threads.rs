//! For tests: results do not depend on the number of threads.

use bert4rs_tensor_core::{Tensor, get_num_threads, set_num_threads};

/// Runs on all threads and on one; all results must be the same.
#[track_caller]
pub(crate) fn assert_same_on_one_thread(run: impl Fn() -> Vec<Tensor>) {
    let many = run();
    let threads = get_num_threads();
    set_num_threads(1);
    let one = run();
    set_num_threads(threads);
    assert!(many.iter().zip(&one).all(|(many, one)| many.equal(one)));
}
