//! Checkpoints: all that a run needs to go on to the bit, in `checkpoints/step-N/` of its folder.
//!
//! | file | holds |
//! | --- | --- |
//! | `weights.safetensors` | the most exact values of all parameters |
//! | `optimizer.safetensors` | the optimizer's state and counters |
//! | `buffers.safetensors` | what the model keeps beside parameters, and random states |
//! | `average.safetensors` | averages of the weights, where the run keeps them |
//! | `best.safetensors` | the weights that scored best, where the run keeps them |
//! | `config.toml` | the run's settings |
//! | `state.json` | the step, the data's position, what batches were shown |
//! | `manifest.json` | size and hash of each file, written last: with it, the checkpoint is whole |
//!
//! A checkpoint is written to `step-N.partial`, flushed, and renamed. So one that bears its name is
//! whole, unless somebody changed it afterwards, which the hashes tell.
//!
//! | module | holds |
//! | --- | --- |
//! | [`state`] | what is kept, taken from a trainer and given back |
//! | [`files`] | one checkpoint's folder: written, checked, read |
//! | [`store`] | a run's checkpoints: the newest whole one, and which are kept |
//! | [`writer`] | when one is due, and writing in the background |
//! | [`changes`] | which settings may differ when a run goes on |

pub mod changes;
pub mod files;
pub mod state;
pub mod store;
pub mod writer;

pub use changes::{Changes, compare};
pub use files::Checkpoint;
pub use state::{RunProgress, TrainState};
pub(crate) use state::{exact_weights, shared};
pub use store::{locate, newest_whole, whole_or_next};
pub use writer::{Checkpointer, Interval, Retention};
