//! Work shared out to libtorch's own threads.
//!
//! libtorch's threads wait for their next work in a loop that keeps their cores busy for a
//! while. A second pool beside them, such as rayon's, would fight them for the cores after every
//! operation of libtorch; so what runs between such operations runs on the same threads.

#![expect(unsafe_code, reason = "the border to C")]

use std::any::Any;
use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Begins a parallel region of OpenMP: `body(data)` on each of `threads` threads.
type Region = unsafe extern "C" fn(
    body: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
    threads: c_uint,
    flags: c_uint,
);

/// Runs `task` for each number below `count`, on as many threads as libtorch uses. Which thread
/// takes which is open.
///
/// # Panics
/// As `task` does, after all threads have come to an end.
pub fn for_each(count: usize, task: impl Fn(usize) + Sync) {
    let threads = count.min(tch::get_num_threads().max(1) as usize);
    match region() {
        Some(region) if threads > 1 => in_region(region, threads, count, &task),
        _ => (0..count).for_each(task),
    }
}

/// Runs `task` for each of `items`, as [`for_each`] does.
pub fn for_each_of<T: Send>(items: Vec<T>, task: impl Fn(T) + Sync) {
    let items = Items::new(items);
    for_each(items.0.len(), |index| items.take(index).into_iter().for_each(&task));
}

/// The results of `task` for each of `items`, in order.
pub fn map_of<T: Send, R: Send>(items: Vec<T>, task: impl Fn(T) -> R + Sync) -> Vec<R> {
    let items = Items::new(items);
    map(items.0.len(), |index| items.take(index).map(&task)).into_iter().flatten().collect()
}

/// Items, each to be taken by the thread that gets its number.
struct Items<T>(Vec<Mutex<Option<T>>>);

impl<T> Items<T> {
    fn new(items: Vec<T>) -> Self {
        Self(items.into_iter().map(|item| Mutex::new(Some(item))).collect())
    }

    fn take(&self, index: usize) -> Option<T> {
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The results of `task` for each number below `count`, in order.
pub fn map<R: Send>(count: usize, task: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let results: Vec<Mutex<Option<R>>> = (0..count).map(|_| Mutex::new(None)).collect();
    for_each(count, |index| {
        let result = task(index);
        *results[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    });
    let inner = |result: Mutex<_>| result.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().filter_map(inner).collect()
}

/// What the threads of a region share.
struct Shared<'a, F> {
    task: &'a F,
    count: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

fn in_region<F: Fn(usize) + Sync>(region: Region, threads: usize, count: usize, task: &F) {
    let shared = Shared { task, count, next: AtomicUsize::new(0), panic: Mutex::new(None) };
    // SAFETY: `work` takes the `Shared` that it is given here, and the region ends before this
    // call returns. What is shared is `Sync`.
    unsafe { region(work::<F>, (&raw const shared).cast_mut().cast(), threads as c_uint, 0) };
    let panic = shared.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

/// One thread's part: tasks that no other thread took, until there are none.
///
/// # Safety
/// `shared` is a `Shared<F>` that outlives the call.
unsafe extern "C" fn work<F: Fn(usize) + Sync>(shared: *mut c_void) {
    // SAFETY: the caller's promise.
    let shared = unsafe { &*shared.cast::<Shared<'_, F>>() };
    let tasks = || loop {
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        if index >= shared.count {
            break;
        }
        (shared.task)(index);
    };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(tasks)) {
        shared.next.store(shared.count, Ordering::Relaxed);
        *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
    }
}

/// The OpenMP that libtorch is linked to, if it is GNU's.
fn region() -> Option<Region> {
    static REGION: OnceLock<Option<Region>> = OnceLock::new();
    *REGION.get_or_init(|| {
        // SAFETY: the name is NUL-terminated; the symbol, where there is one, is a function of
        // this signature by GNU OpenMP's ABI, which other libraries of the name follow.
        unsafe {
            let symbol = libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr());
            (!symbol.is_null()).then(|| std::mem::transmute::<*mut c_void, Region>(symbol))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for count in [0, 1, 2, 1000] {
            let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            for_each(count, |index| {
                runs[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn items_are_taken_once_and_results_are_in_order() {
        let sum = AtomicUsize::new(0);
        for_each_of((1..=100).collect(), |item| {
            sum.fetch_add(item, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 5050);
        let tripled: Vec<usize> = (0..100).map(|item| 3 * item).collect();
        assert_eq!(map_of((0..100).collect(), |item: usize| 3 * item), tripled);
        assert_eq!(map(100, |index| 2 * index), (0..200).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn libtorch_shares_its_threads() {
        assert!(region().is_some());
    }

    #[test]
    fn a_panic_arrives() {
        let outcome = catch_unwind(|| for_each(10, |index| assert!(index != 7, "seven")));
        assert_eq!(crate::error::panic_text(outcome.unwrap_err().as_ref()), "seven");
    }
}
