//! AdamW, Muon and NorMuon for `tch`: exact, fast, usable alone.
//!
//! With a model of plain `tch`:
//!
//! ```
//! use bert4rs_optim::{Optimizer, OptimizerConfig, group};
//! use tch::{Device, Kind, Tensor, nn, nn::Module};
//!
//! let vs = nn::VarStore::new(Device::Cpu);
//! let model = nn::seq()
//!     .add(nn::linear(vs.root() / "hidden", 16, 64, Default::default()))
//!     .add_fn(|x| x.gelu("none"))
//!     .add(nn::linear(vs.root() / "head", 64, 4, Default::default()));
//!
//! let mut params = group::params(vs.variables());
//! let mut optimizer = Optimizer::new(OptimizerConfig::normuon(0.02, 1e-3), &mut params)?;
//! let input = Tensor::randn([32, 16], (Kind::Float, Device::Cpu));
//! for _ in 0..3 {
//!     let loss = model.forward(&input).square().mean(Kind::Float);
//!     let grads = group::grads(&loss, &params)?;
//!     let report = optimizer.step(&mut params, &grads, 1.0)?;
//!     assert!(!report.skipped && report.grad_norm > 0.0);
//! }
//! # Ok::<(), bert4rs_optim::Error>(())
//! ```
//!
//! `examples/tch_model.rs` adds a learning-rate schedule. [`polar::polar_factor`] can be used by
//! itself.
//!
//! | module | holds |
//! | --- | --- |
//! | [`optimizer`] | [`Optimizer`]: the only loop over parameters, its steps and saved state |
//! | [`config`] | [`OptimizerConfig`]: all that a user chooses |
//! | [`group`] | which parameter gets which rule |
//! | [`param_group`] | learning rates and freezing by name |
//! | [`adamw`] | AdamW |
//! | [`muon`], [`normuon`], [`momentum`] | Muon, NorMuon, and momentum over a run |
//! | [`polar`] | the polar factor (orthogonalization), by Polar Express and others |
//! | [`clip`] | norms of gradients, clipping |
//! | [`masters`] | exact FP32 values beside weights of lower precision |
//! | [`implementation`] | updates by libtorch's operations or by our kernels |
//! | [`memory`] | bytes that all this holds, before it is made |
//! | [`sharding`] | one optimizer over many processes |
//! | [`schedule`] | learning rate over a run |

pub mod adamw;
pub mod clip;
pub mod config;
mod error;
pub mod group;
pub mod implementation;
pub mod masters;
pub mod memory;
pub mod momentum;
pub mod muon;
pub mod normuon;
pub mod optimizer;
pub mod param_group;
pub mod polar;
mod scalars;
pub mod schedule;
pub mod sharding;
mod verdict;

pub use adamw::AdamwConfig;
pub use clip::{ClipConfig, ClipScope};
pub use config::OptimizerConfig;
pub use error::{Error, Result};
pub use implementation::UpdateImplementation;
pub use masters::Masters;
pub use muon::MuonConfig;
pub use optimizer::{Optimizer, StepReport};
pub use param_group::ParamGroup;
pub use sharding::{DataParallel, ShardedOptimizer, Sharding};
