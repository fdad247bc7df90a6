//! AdamW, Muon and NorMuon for `tch`: exact, fast, usable alone.
//!
//! | module | holds |
//! | --- | --- |
//! | [`config`] | what a user chooses |
//! | [`optimizer`] | [`Optimizer`]: the only loop over parameters |
//! | [`adamw`] | AdamW, plain and fused |
//! | [`masters`] | exact FP32 values beside weights of lower precision |
//! | [`clip`] | norms of gradients, clipping |
//! | [`schedule`] | learning rate over a run |

pub mod adamw;
pub mod clip;
pub mod config;
mod error;
pub mod masters;
pub mod optimizer;
pub mod polar;
pub mod schedule;

pub use config::OptimizerConfig;
pub use error::{Error, Result};
pub use optimizer::{Optimizer, StepReport};
