//! AdamW, Muon and NorMuon for `tch`: exact, fast, usable alone.
//!
//! | module | holds |
//! | --- | --- |
//! | [`config`] | what a user chooses |
//! | [`optimizer`] | [`Optimizer`]: the only loop over parameters |
//! | [`adamw`] | AdamW, plain and fused |
//! | [`muon`], [`neuron`], [`momentum`] | Muon, NorMuon |
//! | [`polar`] | the polar factor, by Polar Express and others |
//! | [`group`] | which parameter gets which rule |
//! | [`masters`] | exact FP32 values beside weights of lower precision |
//! | [`clip`] | norms of gradients, clipping |
//! | [`schedule`] | learning rate over a run |

pub mod adamw;
pub mod clip;
pub mod config;
mod error;
pub mod group;
pub mod masters;
pub mod momentum;
pub mod muon;
pub mod neuron;
pub mod optimizer;
pub mod polar;
pub mod schedule;

pub use config::{AdamwConfig, OptimizerConfig};
pub use error::{Error, Result};
pub use muon::MuonConfig;
pub use optimizer::{Optimizer, StepReport};
