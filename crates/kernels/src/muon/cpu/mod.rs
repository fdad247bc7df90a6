//! On the CPU: each pass shared out by chunks or by bands of rows.

mod momentum;
mod row_sums;
mod update;

pub(super) use momentum::momentum_update;
pub(super) use row_sums::sums_of_squares;
pub(super) use update::apply_update;

/// Values a task takes at a time where the order in memory does not matter.
const CHUNK: usize = 1 << 14;

/// Side of the squares in which a matrix is transposed, and rows of a band.
const TILE: usize = 32;

/// Independent sums, so that a loop becomes vector additions.
const LANES: usize = 16;
