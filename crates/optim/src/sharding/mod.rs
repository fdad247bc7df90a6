//! One optimizer over many processes: each owns the states of a part of the values and updates
//! them; gradients come to it summed, and all get the new weights from their owners.
//!
//! With `P` values on `N` ranks, a rank holds `1/N` of all states and masters, computes about `1/N`
//! of Muon's polar factors, and sends `(N-1)/N P` gradient and as many weight values a step: as
//! much as an exchange of gradients alone, for which every rank would hold and compute it all.
//!
//! | item | is |
//! | --- | --- |
//! | [`Sharding`] | what is divided |
//! | [`DataParallel`] | one optimizer for all of that, also for a process alone |
//! | [`ShardPlan`] | who owns what |
//! | [`ShardedOptimizer`] | [`Optimizer`](crate::Optimizer) over what this rank owns |

mod data_parallel;
mod flat;
mod optimizer;
mod plan;
mod state;

pub use data_parallel::{DataParallel, Sharding, StepGradients};
pub(crate) use optimizer::plan;
pub use optimizer::{ShardedGradients, ShardedOptimizer};
pub use plan::{Piece, ShardPlan};
