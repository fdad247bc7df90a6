//! On the CPU: rows side by side, in vectors.

mod backward;
mod forward;

pub(super) use backward::backward;
pub(super) use forward::forward;
