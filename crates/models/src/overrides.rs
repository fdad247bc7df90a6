//! Departures from a family's published form, the same for all families.
//!
//! In `config.json` they are the object `bert4rs`, absent from a model as published.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::layers::{Biased, FeedForwardKind, NormKind, Placement, Rotary};

/// One knob for each departure; absent means as published.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArchitectureOverrides {
    /// Which normalisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<NormKind>,
    /// Where the normalisation stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_placement: Option<Placement>,
    /// The feed-forward half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed_forward: Option<FeedForwardKind>,
    /// Rotary positions instead of the family's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotary: Option<Rotary>,
    /// Heads of keys and values: fewer than heads of queries is grouped-query attention, one is
    /// multi-query attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<i64>,
    /// A token attends to those less than this many positions away (on both sides if
    /// bidirectional).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<i64>,
    /// RMS norms of each head's queries and keys.
    #[serde(skip_serializing_if = "is_false")]
    pub qk_norm: bool,
    /// The last map of each half of a block starts at 0, so that a block starts as the identity.
    #[serde(skip_serializing_if = "is_false")]
    pub zero_init_outputs: bool,
    /// The linear maps of blocks have no biases.
    #[serde(skip_serializing_if = "is_false")]
    pub no_biases: bool,
    /// Logits `x` become `cap · tanh(x / cap)`. Source: arXiv 2408.00118.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_soft_cap: Option<f64>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl ArchitectureOverrides {
    /// Whether the model is as published.
    pub fn is_published(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses values that no model of so many heads, of that size, can have.
    pub(crate) fn validate(&self, heads: i64, head_size: i64) -> Result<()> {
        if let Some(rotary) = self.rotary {
            rotary.validate(head_size)?;
        }
        match self.kv_heads {
            Some(groups) if groups < 1 || heads % groups != 0 => {
                let reason = format!("does not divide the number of heads, {heads}");
                return Err(Error::config("kv_heads", groups, reason));
            }
            _ => {}
        }
        match self.window {
            Some(window) if window < 1 => {
                return Err(Error::config("window", window, "must be at least 1"));
            }
            _ => {}
        }
        match self.logit_soft_cap {
            Some(cap) if !(cap.is_finite() && cap > 0.0) => {
                Err(Error::config("logit_soft_cap", cap, "must be above 0"))
            }
            _ => Ok(()),
        }
    }

    /// Whether linear maps of blocks have biases, in a family that has them as published.
    pub(crate) fn biased(&self) -> Biased {
        if self.no_biases { Biased::No } else { Biased::Yes }
    }
}
