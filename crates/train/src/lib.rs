//! Training: the loop with its seams, and what a whole run adds to it.
//!
//! The loop knows neither configurations nor terminals. A model, data and metrics of your own
//! train with it by implementing [`task::Task`], [`loader::Loader`] and [`hook::Hook`]; see
//! `examples/own_task.rs`.
//!
//! | module | holds |
//! | --- | --- |
//! | [`trainer`] | the loop, on one screen |
//! | [`task`] | what is learned: a model, its loss, its metrics, how it is kept |
//! | [`loader`], [`batch`] | where batches come from, and what they hold |
//! | [`hook`] | code of others within the loop |
//! | [`average`] | a moving average of the weights |
//! | [`best_weights`] | the weights that score best, and ending where none do |
//! | [`trouble`] | losses that are not numbers, or spikes, and what is done about them |
//! | [`early_stopping`] | ending where held-out text is predicted no better |
//! | [`divergence`] | when losses tell that training has come apart |
//! | [`metrics`] | what is recorded of steps, and its outlets |
//! | [`evaluation`] | the model measured on held-out text |
//! | [`checkpoint`], [`stop`] | going on to the bit; stopping from outside |
//! | [`execution`] | how a step's work is launched |
//! | [`machine`] | device, precision, and all that changes the process |
//! | [`measured_peak`] | the rate of its best matrix products |
//! | [`distributed`] | the processes that train together |
//! | [`backends`] | what computes operations, chosen by measurement |
//! | [`facts`], [`summary`], [`description`] | what is known before, after, and told to people |
//! | [`run_folder`] | `runs/NAME/`, never overwritten unasked |
//! | [`config`], [`presets`], [`model_zoo`] | every key; named sets of values; published models |
//! | [`build`](mod@build) | the parts of a run, made from a configuration |
//! | [`follower`] | what a run's other processes do |
//! | [`run`] | `bert4rs train`: all of the above |
//! | [`rehearsal`] | what a run would be, and with which learning rate |
//! | [`finetune`] | jobs learned from labelled examples |
//! | [`scores`] | what predictions are worth, as each field counts it |
//! | [`profile`] | a few steps with every operation timed |
//! | [`memory_plan`] | what a run will hold, before it begins |
//! | [`lr_range`] | the test that finds a learning rate |
//! | [`cache`] | the user's cache: what lies in it, and which runs use it |
//! | [`capacity`] | what this machine has: limits of what a run may ask for |
//! | [`report`] | what runs left: a list, and a page of curves |
//! | [`tensorboard`] | TensorBoard's event files |
//! | [`names`] | choices under the names that configurations have for them |
//! | [`console`], [`terminal`] | what a person sees of a run, and of its steps |
//! | [`output`] | standard output, whose failures count |

pub mod average;
pub mod backends;
pub mod batch;
pub mod best_weights;
pub mod build;
pub mod cache;
pub mod capacity;
mod captured_steps;
pub mod checkpoint;
pub mod clock;
pub mod config;
pub mod console;
pub mod dataset;
pub mod description;
pub mod distributed;
pub mod divergence;
pub mod early_stopping;
mod error;
pub mod evaluation;
pub mod execution;
pub mod facts;
pub mod finetune;
pub mod follower;
mod gradients;
pub mod hook;
mod init;
pub mod loader;
pub mod lr_range;
pub mod machine;
pub mod measured_peak;
pub mod memory_plan;
pub mod metrics;
pub mod model_zoo;
pub mod names;
mod nearest;
mod outlets;
pub mod output;
pub mod presets;
pub mod profile;
pub mod rehearsal;
pub mod report;
pub mod run;
pub mod run_folder;
pub mod scores;
mod stages;
pub mod stop;
pub mod summary;
pub mod task;
pub mod tensorboard;
pub mod terminal;
mod train_step;
pub mod trainer;
pub mod trouble;
mod update_ratio;

pub use error::{Error, Result, in_units};
