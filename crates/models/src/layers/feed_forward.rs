//! The feed-forward half of a transformer block.
//!
//! Axes: `b` batch, `t` time, `d` features, `f` inner features.

use bert4rs_kernels::activation::activate_biased;
use bert4rs_tensor_core::param::{Init, ParamPath};
use bert4rs_tensor_core::policy::Policy;
use bert4rs_tensor_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::activation::activate;
use super::{Activation, Biased, Dropout, Linear};

/// The published forms, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedForwardKind {
    /// `gelu(x W₁) W₂` (arXiv 1810.04805).
    Gelu,
    /// `relu(x W₁) W₂` (arXiv 1706.03762).
    Relu,
    /// `relu(x W₁)² W₂` (arXiv 2109.08668).
    #[serde(rename = "relu2")]
    ReluSquared,
    /// `(gelu(x W₀) · x W₁) W₂` (arXiv 2002.05202).
    GeGlu,
    /// `(silu(x W₀) · x W₁) W₂` (arXiv 2002.05202).
    SwiGlu,
    /// `(relu(x W₀) · x W₁) W₂` (arXiv 2002.05202).
    ReGlu,
}

impl FeedForwardKind {
    /// The activation, and whether it is a gate.
    pub fn parts(self) -> (Activation, Gated) {
        match self {
            Self::Gelu => (Activation::Gelu, Gated::No),
            Self::Relu => (Activation::Relu, Gated::No),
            Self::ReluSquared => (Activation::ReluSquared, Gated::No),
            Self::GeGlu => (Activation::Gelu, Gated::Yes),
            Self::SwiGlu => (Activation::Silu, Gated::Yes),
            Self::ReGlu => (Activation::Relu, Gated::Yes),
        }
    }
}

/// Whether the activation gates a second map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gated {
    /// `activation(x W₀) · x W₁`
    Yes,
    /// `activation(x W₁)`
    No,
}

/// Sizes and choices of a [`FeedForward`].
#[derive(Debug, Clone, Copy)]
pub struct FeedForwardConfig {
    /// Features `d` in and out.
    pub hidden: i64,
    /// Features `f` between.
    pub inner: i64,
    /// The nonlinearity between.
    pub activation: Activation,
    /// Whether it is a gate.
    pub gated: Gated,
    /// Whether the maps have biases.
    pub biased: Biased,
    /// Of the inner features.
    pub dropout: Dropout,
    /// How the maps to the inner features start.
    pub init_up: Init,
    /// How the map back starts.
    pub init_down: Init,
}

impl FeedForwardConfig {
    /// Multiply-adds a token: two maps, or three with a gate.
    pub fn products(&self) -> f64 {
        let maps = if self.gated == Gated::Yes { 3.0 } else { 2.0 };
        maps * self.hidden as f64 * self.inner as f64
    }
}

/// Where a [`FeedForward`] has its maps.
#[derive(Debug)]
pub struct FeedForwardPaths<'a> {
    /// `W₀`, used only with a gate; if absent, it is the first half of `W₁`'s rows.
    pub gate: Option<ParamPath<'a>>,
    /// `W₁`.
    pub up: ParamPath<'a>,
    /// `W₂`.
    pub down: ParamPath<'a>,
}

/// Where the gate's rows are.
#[derive(Debug, Clone)]
enum Gate {
    /// There is none.
    None,
    /// In a map of its own.
    Own(Linear),
    /// Before those of `W₁`, in one map with them.
    InUp,
}

/// `activation(x W₁) W₂`, or gated; see [`FeedForwardKind`].
#[derive(Debug, Clone)]
pub struct FeedForward {
    gate: Gate,
    up: Linear,
    down: Linear,
    activation: Activation,
    policy: Policy,
    dropout: Dropout,
}

impl FeedForward {
    /// Makes its parameters at `paths`.
    pub fn new(paths: &FeedForwardPaths, config: &FeedForwardConfig) -> Result<Self> {
        let FeedForwardConfig { hidden, inner, biased, init_up, init_down, .. } = *config;
        let (gate, up) = match (config.gated, &paths.gate) {
            (Gated::No, _) => (Gate::None, inner),
            (Gated::Yes, Some(gate)) => {
                (Gate::Own(Linear::new(gate, hidden, inner, biased, init_up)?), inner)
            }
            (Gated::Yes, None) => (Gate::InUp, 2 * inner),
        };
        Ok(Self {
            gate,
            up: Linear::new(&paths.up, hidden, up, biased, init_up)?,
            down: Linear::new(&paths.down, inner, hidden, biased, init_down)?,
            activation: config.activation,
            policy: paths.up.policy().clone(),
            dropout: config.dropout,
        })
    }

    /// Whether it draws random numbers in training.
    pub fn drops(&self) -> bool {
        self.dropout.acts() || self.maps().any(Linear::drops)
    }

    /// Its parameters.
    pub fn weights(&self) -> impl Iterator<Item = &Tensor> {
        self.maps().flat_map(Linear::weights)
    }

    fn maps(&self) -> impl Iterator<Item = &Linear> {
        let gate = match &self.gate {
            Gate::Own(gate) => Some(gate),
            Gate::None | Gate::InUp => None,
        };
        gate.into_iter().chain([&self.up, &self.down])
    }

    /// Its maps, to be changed.
    pub fn maps_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let gate = match &mut self.gate {
            Gate::Own(gate) => Some(gate),
            Gate::None | Gate::InUp => None,
        };
        gate.into_iter().chain([&mut self.up, &mut self.down])
    }

    /// `[b, t, d]` to `[b, t, d]`.
    ///
    /// # Errors
    /// What the kernels throw.
    pub fn forward(&self, x_btd: &Tensor, train: bool) -> Result<Tensor> {
        if let Some(inner_btf) = self.activated_with_bias(x_btd)? {
            return Ok(self.down.forward_adapted(&self.dropout.forward(inner_btf, train), train));
        }
        let up_btf = self.up.forward_adapted(x_btd, train);
        let (activation, policy) = (self.activation, &self.policy);
        let inner_btf = match &self.gate {
            Gate::None => activate(policy, activation, &up_btf, None),
            Gate::Own(gate) => {
                let gate_btf = gate.forward_adapted(x_btd, train);
                activate(policy, activation, &gate_btf, Some(&up_btf))
            }
            Gate::InUp => {
                let halves = up_btf.chunk(2, -1);
                activate(policy, activation, &halves[0], Some(&halves[1]))
            }
        }?;
        Ok(self.down.forward_adapted(&self.dropout.forward(inner_btf, train), train))
    }

    /// The inner features where one kernel adds the bias and activates, without a gate or FP8.
    fn activated_with_bias(&self, x_btd: &Tensor) -> Result<Option<Tensor>> {
        match (&self.gate, &self.up) {
            (
                Gate::None,
                Linear { weight, bias: Some(bias), fp8: None, int8: None, adapter: None },
            ) if self.policy.joins_on(x_btd.device()) => {
                let up_btf = x_btd.linear(weight, None::<&Tensor>);
                activate_biased(self.activation, &up_btf, bias).map(Some)
            }
            _ => Ok(None),
        }
    }
}
