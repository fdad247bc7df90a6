//! Processes that train together, by torch's own c10d.
//!
//! | module | holds |
//! | --- | --- |
//! | [`Launch`] | which rank this process is, from a launcher's variables |
//! | [`Store`] | where processes meet: keys and values over TCP |
//! | [`agree`](agree()) | compares what all must share, before the first collective |
//! | [`ProcessGroup`] | collectives: [`Gloo`]'s between processes, [`Solo`]'s for one alone |
//! | [`all_reduce_sum`], [`reduce_scatter_sum`] | sums with the same bits on all ranks, always |
//! | [`GradientExchange`] | gradients summed over ranks |
//!
//! Each collective is a [`Work`] to be waited for. When a rank ends or hangs, the others get an
//! error that names it. `docs/distributed.md` says how to start many processes.
//!
//! ```
//! use bert4rs_tensor_core::distributed::{ProcessGroup, Solo, sum_counts};
//!
//! let group: &dyn ProcessGroup = &Solo;
//! let [labels] = sum_counts(group, [37])?;
//! assert_eq!((labels, group.rank(), group.size()), (37, 0, 1));
//! # Ok::<(), bert4rs_tensor_core::Error>(())
//! ```

mod agree;
mod connection;
mod ffi;
mod gloo;
mod gradients;
mod group;
mod launch;
mod slurm;
mod store;
mod sums;
mod work;

pub use agree::{Facts, agree};
pub use gloo::{Gloo, GlooOptions};
pub use gradients::{GradientExchange, common_kinds};
pub use group::{ProcessGroup, ReduceOp, Solo};
pub use launch::Launch;
pub use store::Store;
pub use sums::{all_reduce_sum, gather, reduce_scatter_sum, sum_counts};
pub use work::Work;
