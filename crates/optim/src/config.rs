//! The optimizer's section of a configuration: each rule's own, and what they share.

use bert4rs_tensor_core::policy::Policy;
use serde::{Deserialize, Serialize};

use crate::adamw::AdamwConfig;
use crate::clip::{ClipConfig, ClipScope};
use crate::error::{Result, check};
use crate::group::Assignment;
use crate::masters::Masters;
use crate::muon::MuonConfig;
use crate::param_group::ParamGroup;
use crate::sharding::Sharding;

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
    /// Learning rates, decays and freezing by name.
    #[serde(default)]
    pub groups: Vec<ParamGroup>,
    /// Clipping of gradients, if any.
    #[serde(default)]
    pub clip: Option<ClipConfig>,
    /// How exact FP32 values are kept beside BF16 weights.
    #[serde(default)]
    pub masters: Masters,
    /// What processes that train together divide among themselves.
    #[serde(default)]
    pub sharding: Sharding,
    /// Steps whose gradients are not finite are skipped; after this many in a row, stop.
    #[serde(default = "default_max_skipped")]
    pub max_skipped_in_a_row: u64,
    /// What chooses between our kernels and libtorch's operations where the rules leave it open.
    /// No key of its own: the run has one policy.
    #[serde(skip)]
    pub policy: Policy,
}

fn default_max_skipped() -> u64 {
    10
}

impl OptimizerConfig {
    /// AdamW alone, gradients clipped to norm 1.
    pub fn adamw(lr: f64) -> Self {
        Self {
            adamw: AdamwConfig::new(lr),
            muon: None,
            assignments: Vec::new(),
            groups: Vec::new(),
            clip: Some(ClipConfig { max_norm: 1.0, scope: ClipScope::Adamw }),
            masters: Masters::Fp32,
            sharding: Sharding::None,
            max_skipped_in_a_row: default_max_skipped(),
            policy: Policy::default(),
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
    ///
    /// # Errors
    /// The first such setting.
    pub fn validate(&self) -> Result<()> {
        self.adamw.validate()?;
        self.groups.iter().try_for_each(ParamGroup::validate)?;
        if let Some(muon) = &self.muon {
            muon.validate()?;
        }
        if let Some(ClipConfig { max_norm, .. }) = self.clip {
            check("clip.max_norm", max_norm, max_norm > 0.0, "must be more than 0")?;
        }
        let limit = self.max_skipped_in_a_row;
        check("max_skipped_in_a_row", limit as f64, limit > 0, "must be at least 1")
    }
}
