//! How the loop runs.

use std::time::Duration;

use crate::execution::Execution;

/// How the loop runs.
#[derive(Debug, Clone, Copy)]
pub struct TrainOptions {
    /// Optimizer steps of the whole run.
    pub max_steps: u64,
    /// Batches whose gradients add up to one step, at least 1.
    pub accumulate: u32,
    /// Steps between two reports to the sinks, at least 1: the loop waits for the device there.
    pub log_every: u64,
    /// Steps between two measurements on held-out text; 0 measures only when asked to.
    pub eval_every: u64,
    /// Time after which training ends, whatever its steps, and in which the schedule runs.
    pub max_time: Option<Duration>,
    /// Steps between two comparisons of a step's update with the weights; 0 makes none.
    pub update_ratio_every: u64,
    /// How a step's work is launched.
    pub execution: Execution,
}

impl TrainOptions {
    /// So many steps of one batch each, eagerly, with a report every ten.
    pub fn steps(max_steps: u64) -> Self {
        Self {
            max_steps,
            accumulate: 1,
            log_every: 10,
            eval_every: 0,
            max_time: None,
            update_ratio_every: 0,
            execution: Execution::Eager,
        }
    }
}
