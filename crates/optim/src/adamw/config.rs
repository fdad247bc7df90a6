//! What a user chooses of AdamW.

use bert4rs_tensor_core::param::Role;
use serde::{Deserialize, Serialize};

use crate::error::{Result, check};
use crate::implementation::UpdateImplementation;

/// Settings of AdamW (arXiv 1711.05101), with bias correction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamwConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the bias-corrected second moment.
    pub eps: f64,
    /// Decoupled decay: each step takes `lr * weight_decay` of a weight. Acts on matrices,
    /// embeddings and heads.
    pub weight_decay: f64,
    /// Decay only where update and weight agree in sign.
    #[serde(default)]
    pub cautious: bool,
    /// Factors on the learning rate, by role.
    #[serde(default)]
    pub lr_scale: RoleScale,
    /// How a step is computed.
    #[serde(default)]
    pub implementation: UpdateImplementation,
}

impl AdamwConfig {
    /// PyTorch's defaults: betas 0.9 and 0.999, eps 1e-8, weight decay 0.01.
    pub fn new(lr: f64) -> Self {
        Self {
            lr,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            cautious: false,
            lr_scale: RoleScale::default(),
            implementation: UpdateImplementation::Auto,
        }
    }

    /// Decay of a parameter of `role`: on matrices and tables of words, on nothing else.
    pub fn weight_decay_of(&self, role: Role) -> f64 {
        match role {
            Role::Matrix | Role::Embedding | Role::Head => self.weight_decay,
            Role::Norm | Role::Bias | Role::RelativeBias | Role::Gate => 0.0,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let positive = |key, value| check(key, value, value > 0.0, "must be more than 0");
        let rate = |key, value| {
            check(key, value, (0.0..1.0).contains(&value), "must be at least 0 and below 1")
        };
        let not_negative = |key, value| check(key, value, value >= 0.0, "must not be negative");
        not_negative("adamw.lr", self.lr)?;
        rate("adamw.beta1", self.beta1)?;
        rate("adamw.beta2", self.beta2)?;
        positive("adamw.eps", self.eps)?;
        not_negative("adamw.weight_decay", self.weight_decay)?;
        for role in Role::ALL {
            not_negative("adamw.lr_scale", self.lr_scale.of(role))?;
        }
        if self.cautious && self.weight_decay == 0.0 {
            let reason = "there is no weight decay to be cautious with";
            return check("adamw.weight_decay", 0.0, false, reason);
        }
        Ok(())
    }
}

/// A factor for each role, 1 unless given.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoleScale {
    /// Of hidden matrices.
    pub matrix: f64,
    /// Of embeddings.
    pub embedding: f64,
    /// Of output heads.
    pub head: f64,
    /// Of normalisations.
    pub norm: f64,
    /// Of biases.
    pub bias: f64,
    /// Of relative-position tables.
    pub relative_bias: f64,
    /// Of gates.
    pub gate: f64,
}

impl Default for RoleScale {
    fn default() -> Self {
        Self {
            matrix: 1.0,
            embedding: 1.0,
            head: 1.0,
            norm: 1.0,
            bias: 1.0,
            relative_bias: 1.0,
            gate: 1.0,
        }
    }
}

impl RoleScale {
    /// The factor of `role`.
    pub fn of(&self, role: Role) -> f64 {
        match role {
            Role::Matrix => self.matrix,
            Role::Embedding => self.embedding,
            Role::Head => self.head,
            Role::Norm => self.norm,
            Role::Bias => self.bias,
            Role::RelativeBias => self.relative_bias,
            Role::Gate => self.gate,
        }
    }
}
