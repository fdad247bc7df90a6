//! Scaled dot-product attention: one function, several implementations.
//!
//! Axes: `b` batch, `h` heads, `t` queries, `s` keys, `d` features of a head.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{Context, Error, Result};

/// Which code computes attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Implementation {
    /// Products and softmax one by one, holding all scores: the reference.
    Plain,
    /// libtorch's fused kernel, which never holds all scores.
    Fused,
}

/// How attention is computed.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Which code computes it.
    pub implementation: Implementation,
    /// Probability of dropping an attention weight; 0 outside training.
    pub dropout: f64,
}

impl Options {
    /// Refuses what the implementation can't do.
    pub fn check(&self) -> Result<()> {
        if self.implementation == Implementation::Fused && self.dropout > 0.0 {
            return Err(Error::Unsupported {
                what: "fused attention with attention dropout".into(),
                reason: "the fused kernels drop no weights; set model.attention_dropout = 0 or \
                         compute.attention = \"plain\""
                    .into(),
            });
        }
        Ok(())
    }
}

/// `softmax(q kᵀ / √d + mask) v`.
///
/// `q_bhtd`, `k_bhsd` and `v_bhsd` share a float dtype. `mask` is boolean, true where a query may
/// see a key, and broadcasts to `[b, h, t, s]`; every query sees at least one key.
pub fn attention(
    q_bhtd: &Tensor,
    k_bhsd: &Tensor,
    v_bhsd: &Tensor,
    mask: Option<&Tensor>,
    options: &Options,
) -> Result<Tensor> {
    options.check()?;
    match options.implementation {
        Implementation::Plain => plain(q_bhtd, k_bhsd, v_bhsd, mask, options.dropout),
        Implementation::Fused => Tensor::f_scaled_dot_product_attention(
            q_bhtd, k_bhsd, v_bhsd, mask, 0.0, false, None, false,
        )
        .during("fused attention"),
    }
}

/// The formula as it stands, with softmax in FP32 whatever the inputs' dtype.
fn plain(
    q_bhtd: &Tensor,
    k_bhsd: &Tensor,
    v_bhsd: &Tensor,
    mask: Option<&Tensor>,
    dropout: f64,
) -> Result<Tensor> {
    let op = "attention";
    let features = q_bhtd.size().last().copied().unwrap_or(1) as f64;
    let mut scores_bhts = q_bhtd.f_matmul(&k_bhsd.transpose(-2, -1)).during(op)? / features.sqrt();
    if let Some(mask) = mask {
        scores_bhts =
            scores_bhts.f_masked_fill(&mask.logical_not(), f64::NEG_INFINITY).during(op)?;
    }
    let mut weights_bhts =
        scores_bhts.f_softmax(-1, Kind::Float).during(op)?.to_kind(v_bhsd.kind());
    if dropout > 0.0 {
        weights_bhts = weights_bhts.f_dropout(dropout, true).during(op)?;
    }
    weights_bhts.f_matmul(v_bhsd).during(op)
}
