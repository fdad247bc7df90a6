//! Training: configuration, presets, the loop, and the folder that a run leaves.
//!
//! | module | holds |
//! | --- | --- |
//! | [`config`] | every key, laid over from presets, files and flags |
//! | [`presets`] | the named sets of values |
//! | [`model_zoo`] | published models by name |
//! | [`capacity`] | what this machine has: limits of what a run may ask for |
//! | [`memory_plan`] | what a run will hold, before it begins |
//! | [`trainer`] | the loop, on one screen |
//! | [`session`] | model, data and optimizer made from a configuration; one step |
//! | [`task`] | what a family learns: its batches and its loss |
//! | [`profile`] | a few steps with every operation timed |
//! | [`run_folder`] | `runs/NAME/`, never overwritten unasked |
//! | [`report`] | what runs left: a list, and a page of curves |
//! | [`metrics`] | `metrics.jsonl` and `summary.json` |
//! | [`console`] | what a person sees |
//! | [`output`] | standard output, whose failures count |

pub mod capacity;
pub mod clock;
pub mod config;
pub mod console;
mod error;
mod fixed;
mod gradients;
pub mod memory_plan;
pub mod metrics;
mod nearest;
pub mod output;
pub mod presets;
pub mod profile;
pub mod model_zoo;
pub mod report;
pub mod run_folder;
pub mod session;
pub mod task;
pub mod trainer;
mod work;

pub use error::{Error, Result, in_units};
