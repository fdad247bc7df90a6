//! The feed-forward half of a transformer block.
//!
//! Axes: `b` batch, `t` time, `d` features, `f` inner features.

use bert4rs_tensor_core::param::{Init, Path, Role};
use bert4rs_tensor_core::{Result, Tensor};

use super::{Activation, Linear};

/// Sizes and choices of a [`FeedForward`].
#[derive(Debug, Clone, Copy)]
pub struct FeedForwardConfig {
    /// Features `d` in and out.
    pub hidden: i64,
    /// Features `f` between.
    pub inner: i64,
    /// The nonlinearity between.
    pub activation: Activation,
    /// How the matrices start.
    pub init: Init,
}

/// `activation(x W₁ᵀ + b₁) W₂ᵀ + b₂`. Source: arXiv 1706.03762, section 3.3.
#[derive(Debug)]
pub struct FeedForward {
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl FeedForward {
    /// The first map at `up`, the second at `down`.
    pub fn new(up: &Path, down: &Path, config: &FeedForwardConfig) -> Result<Self> {
        let FeedForwardConfig { hidden, inner, activation, init } = *config;
        Ok(Self {
            up: Linear::new(up, hidden, inner, Role::Matrix, init)?,
            down: Linear::new(down, inner, hidden, Role::Matrix, init)?,
            activation,
        })
    }

    /// `[b, t, d]` to `[b, t, d]`.
    pub fn forward(&self, x_btd: &Tensor) -> Tensor {
        let inner_btf = self.activation.forward(&self.up.forward(x_btd));
        self.down.forward(&inner_btf)
    }
}
