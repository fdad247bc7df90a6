use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bert4rs_data::{BatchSource, Error, Prefetcher, Result};

use crate::sample::assert_error;

/// Numbers, of which some can't be had.
#[derive(Default)]
struct Numbers {
    made: AtomicU64,
    fails_at: Option<u64>,
    panics_at: Option<u64>,
    delay: Duration,
}

impl BatchSource for Numbers {
    type Batch = u64;

    fn batch(&self, index: u64) -> Result<u64> {
        std::thread::sleep(self.delay * (index % 3) as u32);
        self.made.fetch_add(1, Ordering::SeqCst);
        assert_ne!(self.panics_at, Some(index), "no number {index}");
        match self.fails_at {
            Some(at) if at == index => Err(Error::NoSuchBatch { index, count: 0 }),
            _ => Ok(index * 10),
        }
    }
}

const SHAPES: [(usize, usize); 7] = [(0, 0), (0, 3), (1, 1), (1, 4), (4, 0), (4, 3), (8, 2)];

#[test]
fn batches_come_in_order_with_any_depth_and_workers() {
    for (depth, workers) in SHAPES {
        let source = Numbers { delay: Duration::from_micros(300), ..Numbers::default() };
        let mut prefetcher = Prefetcher::new(Arc::new(source), 5, depth, workers).unwrap();
        for index in 5..60 {
            assert_eq!(prefetcher.next_index(), index);
            assert_eq!(prefetcher.next().unwrap(), index * 10, "{depth} ahead, {workers} workers");
        }
    }
}

#[test]
fn no_more_is_made_ahead_than_asked_for() {
    for (depth, workers) in SHAPES {
        let source = Arc::new(Numbers::default());
        let mut prefetcher = Prefetcher::new(Arc::clone(&source), 0, depth, workers).unwrap();
        prefetcher.next().unwrap();
        let ahead = || source.made.load(Ordering::SeqCst) - 1;
        let (depth, workers) = (depth as u64, workers as u64);
        let started = Instant::now();
        while ahead() < depth {
            assert!(started.elapsed() < Duration::from_secs(60), "{} of {depth} ahead", ahead());
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(ahead() < depth + workers.max(1), "{} of {depth} ahead", ahead());
    }
}

#[test]
fn errors_and_panics_arrive_with_their_batch_and_the_rest_goes_on() {
    for (depth, workers) in SHAPES {
        let source = Numbers { fails_at: Some(2), panics_at: Some(4), ..Numbers::default() };
        let mut prefetcher = Prefetcher::new(Arc::new(source), 0, depth, workers).unwrap();
        for index in [0, 1] {
            assert_eq!(prefetcher.next().unwrap(), index * 10);
        }
        assert_error(prefetcher.next(), &["batch 2 was asked for"]);
        assert_eq!(prefetcher.next().unwrap(), 30);
        assert_error(prefetcher.next(), &["making batch 4", "panicked", "no number 4"]);
        assert_eq!(prefetcher.next().unwrap(), 50);
    }
}

#[test]
fn dropping_ends_the_workers() {
    for (depth, workers) in SHAPES {
        let source = Arc::new(Numbers::default());
        let mut prefetcher = Prefetcher::new(Arc::clone(&source), 0, depth, workers).unwrap();
        prefetcher.next().unwrap();
        drop(prefetcher);
        assert_eq!(Arc::strong_count(&source), 1, "a worker still holds the source");
    }
}

#[test]
fn waiting_is_counted() {
    let source = Numbers { delay: Duration::from_millis(20), ..Numbers::default() };
    let mut prefetcher = Prefetcher::new(Arc::new(source), 1, 0, 0).unwrap();
    assert_eq!(prefetcher.waited(), Duration::ZERO);
    prefetcher.next().unwrap();
    prefetcher.next().unwrap();
    assert!(prefetcher.waited() >= Duration::from_millis(60), "{:?}", prefetcher.waited());
}
