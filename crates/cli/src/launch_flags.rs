//! Flags of `launch`.

use clap::Args;

/// Flags of `launch`.
#[derive(Debug, Args)]
pub(crate) struct LaunchFlags {
    /// Processes on this machine.
    #[arg(long, value_name = "N")]
    pub(crate) processes: usize,
    /// Machines. Start the same command on each, with its own --node-rank.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) nodes: usize,
    /// The number of this machine, from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) node_rank: usize,
    /// Name or address of machine 0, where all meet, and a port that is free there.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) master: Option<String>,
    /// Start all anew so many times where one fails, on one machine; with --resume auto, the run
    /// goes on from its last checkpoint.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_restarts: u64,
    /// What each process does: `-- train …` or `-- finetune …`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}
