//! What a step learns from.

pub use bert4rs_data::{BatchDigest, NamedTensors};

/// How much a batch holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchSize {
    /// Real tokens: all but padding.
    pub tokens: u64,
    /// Positions that the model computes, padding included.
    pub positions: u64,
    /// Labels whose losses are summed.
    pub labels: u64,
}

impl std::ops::AddAssign for BatchSize {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.positions += other.positions;
        self.labels += other.labels;
    }
}

/// A batch on its device.
#[derive(Debug)]
pub struct Batch {
    /// What the task's loss reads.
    pub tensors: NamedTensors,
    /// How much it holds.
    pub size: BatchSize,
    /// A hash of what it shows, for the run's fingerprint.
    pub digest: Option<BatchDigest>,
}
