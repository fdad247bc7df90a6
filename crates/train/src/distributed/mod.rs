//! The processes that train together, of which this is one: where they meet, what they agree on
//! before they begin, and what they tell each other in a step.
//!
//! | module | holds |
//! | --- | --- |
//! | [`Ranks`] | this process among the others, or alone |
//! | [`MeteredGroup`] | a group whose exchanges are timed and counted |
//! | [`NetworkCosts`] | what exchanges cost, measured, and among more ranks |
//! | `agreement` | what all must have in common |
//! | `state` | a checkpoint that rank 0 read, for all |
//! | `step` | what ranks exchange in a step beside gradients |

mod agreement;
mod metered;
mod network;
mod ranks;
mod state;
mod step;

pub(crate) use agreement::hash_of_weights;
pub use metered::{MeteredGroup, Traffic};
pub use network::{ExchangeTime, NetworkCosts};
pub use ranks::Ranks;
pub(crate) use ranks::seed_of_rank;
pub(crate) use state::{share_scores, share_state};
pub use step::RankTimes;
pub(crate) use step::{agree_on, end_step, gather_batches, sum_over_ranks};

use serde::{Deserialize, Serialize};

/// How processes that train together talk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistributedConfig {
    /// Seconds that a process waits for the others before it gives up and names those missing.
    pub timeout_s: u64,
    /// Whether each exchange's name, shapes and dtypes are compared over processes first.
    pub checks: bool,
}
