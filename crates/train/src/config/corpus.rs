//! What a run learns from, where that is more than a list of paths.

use serde::{Deserialize, Serialize};

/// An item of `data.corpus`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a path, or { path = \"…\", weight = 1.0 }")]
pub enum CorpusEntry {
    /// A part of the one corpus.
    Path(String),
    /// A corpus of its own, of several that are mixed.
    Weighted(WeightedCorpus),
}

/// A corpus of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedCorpus {
    /// Where it is.
    pub path: String,
    /// Its share of the sequences that a run sees, of the sum of all weights.
    pub weight: f64,
}

impl CorpusEntry {
    /// Where it is.
    pub fn path(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Weighted(corpus) => &corpus.path,
        }
    }
}

/// Batches made ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number of batches, or auto")]
pub enum Prefetch {
    /// So many; 0 makes each in the loop.
    Batches(u32),
    /// As the first steps show what pays.
    Auto(Auto),
}

/// The word for what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// As the first steps show what pays.
    Auto,
}

impl Prefetch {
    /// The most batches that are made ahead.
    pub fn most(self) -> u32 {
        match self {
            Self::Batches(count) => count,
            Self::Auto(_) => crate::loader::AUTO_DEPTH as u32,
        }
    }
}
