//! How a step's work is launched.

use serde::{Deserialize, Serialize};

/// How a step's work is launched. All give the same up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Execution {
    /// Operation by operation; the host looks at each step's gradients before it updates.
    #[default]
    Eager,
    /// Operation by operation, without a wait for the device, which decides by itself whether to
    /// skip a step: the same work for every step, so that it could be captured.
    Capturable,
    /// As [`Capturable`](Self::Capturable), captured once for each shape of batches and then
    /// replayed as a whole. Where that can't be, the next best, with a printed reason.
    CudaGraphs,
}
