//! What a user chooses. Each rule owns its section; a setting that could not act is refused.

use bert4rs_tensor_core::param::Role;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::group::Assignment;
use crate::muon::MuonConfig;

/// The optimizer's section of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The rule of embeddings, heads, norms, biases, gates and relative-bias tables, and of
    /// hidden matrices where no other rule is given.
    pub adamw: AdamwConfig,
    /// The rule of hidden matrices, if not AdamW.
    #[serde(default)]
    pub muon: Option<MuonConfig>,
    /// Rules for parameters by name, over those by role; the last that fits counts.
    #[serde(default)]
    pub assignments: Vec<Assignment>,
    /// Clipping of gradients, if any.
    #[serde(default)]
    pub clip: Option<ClipConfig>,
    /// How exact FP32 values are kept beside BF16 weights.
    #[serde(default)]
    pub masters: Masters,
    /// Steps whose gradients are not finite are skipped; after this many in a row, stop.
    #[serde(default = "default_max_skipped")]
    pub max_skipped_in_a_row: u64,
}

fn default_max_skipped() -> u64 {
    10
}

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
    pub implementation: Implementation,
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
            implementation: Implementation::Auto,
        }
    }

    /// Decay of a parameter of `role`: on matrices and tables of words, on nothing else.
    pub fn weight_decay_of(&self, role: Role) -> f64 {
        match role {
            Role::Matrix | Role::Embedding | Role::Head => self.weight_decay,
            Role::Norm | Role::Bias | Role::RelativeBias | Role::Gate => 0.0,
        }
    }

    fn validate(&self) -> Result<()> {
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

/// How a step's passes over memory are computed. All give the same up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Implementation {
    /// `Fused` where it works, else `Plain`.
    #[default]
    Auto,
    /// By libtorch's operations, on any device and in FP64 too: the reference.
    Plain,
    /// In as few passes over memory as there can be. FP32 and BF16 on the CPU.
    Fused,
}

/// Clipping by the norm of gradients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Gradients are scaled so that their common norm is at most this.
    pub max_norm: f64,
    /// Whose gradients.
    #[serde(default)]
    pub scope: ClipScope,
}

/// Whose gradients are clipped, and whose norm decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipScope {
    /// Those of AdamW's parameters. The others' updates do not depend on the gradient's scale,
    /// and their norm, much larger at times, would stall AdamW.
    #[default]
    Adamw,
    /// All, by one norm.
    All,
}

/// How exact FP32 values are kept beside BF16 weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Masters {
    /// An FP32 copy: 6 bytes a value, the weight included.
    #[default]
    Fp32,
    /// The 16 bits that BF16 drops: 4 bytes a value, and as exact.
    Bf16Residual,
}

impl OptimizerConfig {
    /// AdamW alone, gradients clipped to norm 1.
    pub fn adamw(lr: f64) -> Self {
        Self {
            adamw: AdamwConfig::new(lr),
            muon: None,
            assignments: Vec::new(),
            clip: Some(ClipConfig { max_norm: 1.0, scope: ClipScope::Adamw }),
            masters: Masters::Fp32,
            max_skipped_in_a_row: default_max_skipped(),
        }
    }

    /// Muon for hidden matrices, AdamW for the rest.
    pub fn muon(muon_lr: f64, adamw_lr: f64) -> Self {
        Self { muon: Some(MuonConfig::muon(muon_lr)), ..Self::adamw(adamw_lr) }
    }

    /// NorMuon for hidden matrices, AdamW for the rest.
    pub fn normuon(muon_lr: f64, adamw_lr: f64) -> Self {
        Self { muon: Some(MuonConfig::normuon(muon_lr)), ..Self::adamw(adamw_lr) }
    }

    /// Refuses settings that can't act or make no sense.
    pub fn validate(&self) -> Result<()> {
        self.adamw.validate()?;
        if let Some(muon) = &self.muon {
            muon.validate()?;
        }
        if let Some(clip) = self.clip {
            let max_norm = clip.max_norm;
            check("clip.max_norm", max_norm, max_norm > 0.0, "must be more than 0")?;
        }
        let limit = self.max_skipped_in_a_row;
        check("max_skipped_in_a_row", limit as f64, limit > 0, "must be at least 1")
    }
}

pub(crate) fn check(key: &str, value: f64, holds: bool, reason: &str) -> Result<()> {
    if holds && value.is_finite() {
        return Ok(());
    }
    Err(Error::Config { key: key.into(), value: value.to_string(), reason: reason.into() })
}
