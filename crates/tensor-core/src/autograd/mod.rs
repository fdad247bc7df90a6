//! Autograd functions written in Rust.
//!
//! Implement [`Function`], then call [`apply`]. `forward` runs without autograd and may use any
//! kernel; what `backward` needs is handed to [`ForwardContext::save`] rather than captured, so
//! that libtorch notices when it is modified in place, and frees it once backward has run.
//! [`check::gradients`] compares `backward` with finite differences in FP64.

mod function;

pub mod check;

pub use function::{BackwardContext, ForwardContext, Function, apply};
