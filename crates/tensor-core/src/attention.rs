//! Scaled dot-product attention: one function, several implementations.
//!
//! Axes: `b` batch, `h` heads, `g` heads of keys and values (a divisor of `h`), `t` queries, `s`
//! keys, `d` features of a head.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Context, Error, Result};

mod backends;

use backends::SdpaCall;
pub use backends::{SdpaBackend, sdpa_backend};

/// Which code computes attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionImplementation {
    /// Products and softmax one by one, holding all scores: the reference.
    Plain,
    /// The best of the kernels for the inputs; see [`sdpa_backend`] for libtorch's choice.
    Fused,
    /// Our own kernel, which stands above this crate.
    Own,
    /// libtorch's products and softmax one by one.
    Math,
    /// libtorch's flash attention.
    Flash,
    /// libtorch's memory-efficient attention.
    Efficient,
    /// cuDNN's, by way of libtorch.
    Cudnn,
    /// Flash attention over the documents of packed rows, without a mask ([`crate::varlen`]),
    /// and what [`Fused`](Self::Fused) takes where inputs do not allow it.
    Varlen,
}

impl AttentionImplementation {
    /// Refuses what a device never has, whatever the inputs.
    pub fn check_device(self, device: Device) -> Result<()> {
        let (refused, why) = match (self, device) {
            (Self::Efficient | Self::Cudnn | Self::Varlen, Device::Cpu) => (true, "it is for GPUs"),
            (Self::Own, device) if device != Device::Cpu => (true, "it is for CPUs"),
            _ => (false, ""),
        };
        if !refused {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!("{self:?} attention on {device:?}").to_lowercase(),
            reason: format!("{why}; choose plain, fused, math or flash"),
        })
    }
}

/// How attention is computed.
#[derive(Debug, Clone, Copy)]
pub struct AttentionOptions {
    /// Which code computes it.
    pub implementation: AttentionImplementation,
    /// Probability of dropping an attention weight; 0 outside training.
    pub dropout: f64,
}

impl AttentionOptions {
    /// Refuses what the implementation can't do.
    ///
    /// # Errors
    /// The choice, why it can't be had, and what to choose instead.
    pub fn check(&self) -> Result<()> {
        let drops = matches!(
            self.implementation,
            AttentionImplementation::Plain | AttentionImplementation::Math
        );
        if self.dropout > 0.0 && !drops {
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

/// Which keys a query sees. One that sees none gets 0.
#[derive(Debug, Clone, Copy)]
pub enum MaskView<'a> {
    /// Every key.
    All,
    /// Keys at its own place and before; as many keys as queries.
    Causal,
    /// What this says, broadcast to `[b, h, t, s]`: a boolean is true where the key is seen, a
    /// float is added to the score (minus infinity hides the key).
    Mask(&'a Tensor),
}

/// How scores are made.
#[derive(Debug, Clone, Copy)]
pub struct Scores<'a> {
    /// Which keys a query sees.
    pub visible: MaskView<'a>,
    /// What products are multiplied with; `1 / √d` if absent.
    pub scale: Option<f64>,
}

/// A mask as what is added to scores: of a boolean one, in `kind`, minus infinity where nothing is
/// seen.
pub fn added(mask: &Tensor, kind: Kind) -> Tensor {
    if mask.kind() != Kind::Bool {
        return mask.shallow_clone();
    }
    let nothing = mask.zeros_like().to_kind(kind);
    nothing.masked_fill(&mask.logical_not(), f64::NEG_INFINITY)
}

/// [`attend`] with scores scaled by `1 / √d` and an optional mask.
///
/// # Errors
/// As [`attend`].
pub fn attention(
    q_bhtd: &Tensor,
    k_bgsd: &Tensor,
    v_bgsd: &Tensor,
    mask: Option<&Tensor>,
    options: &AttentionOptions,
) -> Result<Tensor> {
    let visible = mask.map_or(MaskView::All, MaskView::Mask);
    attend(q_bhtd, k_bgsd, v_bgsd, &Scores { visible, scale: None }, options)
}

/// `softmax(q kᵀ · scale + mask) v`, `[b, h, t, d]`. Source: arXiv 1706.03762.
///
/// Queries, keys and values share a float dtype. With fewer heads of keys and values than of
/// queries, each serves `h / g` heads of queries in turn (grouped queries, arXiv 2305.13245).
///
/// # Errors
/// Heads that don't divide, [`MaskView::Causal`] with unlike lengths, attention dropout where the
/// implementation has none, and what libtorch throws.
pub fn attend(
    q_bhtd: &Tensor,
    k_bgsd: &Tensor,
    v_bgsd: &Tensor,
    scores: &Scores,
    options: &AttentionOptions,
) -> Result<Tensor> {
    options.check()?;
    let call = || SdpaCall::new([q_bhtd, k_bgsd, v_bgsd], scores);
    let (mask, causal) = scores.visible.for_kernel(q_bhtd, k_bgsd)?;
    let grouped = is_grouped(q_bhtd, k_bgsd)?;
    match options.implementation {
        AttentionImplementation::Fused
        | AttentionImplementation::Varlen
        | AttentionImplementation::Flash
        | AttentionImplementation::Efficient
        | AttentionImplementation::Cudnn => call()?.run(options.implementation),
        AttentionImplementation::Math => Tensor::f_internal_scaled_dot_product_attention_math(
            q_bhtd,
            k_bgsd,
            v_bgsd,
            mask.map(|mask| added(mask, q_bhtd.kind())).as_ref(),
            options.dropout,
            causal,
            None,
            scores.scale,
            grouped,
        )
        .during("math attention")
        .map(|(result, _weights)| result),
        AttentionImplementation::Own => Err(Error::Unsupported {
            what: "our own attention".into(),
            reason: "it stands above libtorch's; call it where it is, or choose fused".into(),
        }),
        AttentionImplementation::Plain => {
            let repeats = if grouped { q_bhtd.size()[1] / k_bgsd.size()[1] } else { 1 };
            let k_bhsd = repeat_heads(k_bgsd, repeats);
            let v_bhsd = repeat_heads(v_bgsd, repeats);
            plain(q_bhtd, &k_bhsd, &v_bhsd, scores, options.dropout)
        }
    }
}

impl<'a> MaskView<'a> {
    /// The mask and the flag that libtorch's kernels take.
    fn for_kernel(self, q_bhtd: &Tensor, k_bgsd: &Tensor) -> Result<(Option<&'a Tensor>, bool)> {
        match self {
            Self::All => Ok((None, false)),
            Self::Mask(mask) => Ok((Some(mask), false)),
            Self::Causal if q_bhtd.size().get(2) == k_bgsd.size().get(2) => Ok((None, true)),
            Self::Causal => Err(Error::Shape {
                op: "causal attention",
                tensor: "keys",
                found: k_bgsd.size(),
                expected: format!("as many as queries, of shape {:?}", q_bhtd.size()),
            }),
        }
    }
}

/// Whether keys have fewer heads than queries.
fn is_grouped(q_bhtd: &Tensor, k_bgsd: &Tensor) -> Result<bool> {
    match (&q_bhtd.size()[..], &k_bgsd.size()[..]) {
        ([_, h, _, _], [_, g, _, _]) if *g > 0 && h % g == 0 => Ok(h != g),
        (_, keys) => Err(Error::Shape {
            op: "attention",
            tensor: "keys",
            found: keys.to_vec(),
            expected: format!(
                "[batch, heads, time, features] with heads that divide those of queries {:?}",
                q_bhtd.size()
            ),
        }),
    }
}

/// `[b, g, s, d]` to `[b, g · repeats, s, d]`, each head `repeats` times in turn.
fn repeat_heads(x_bgsd: &Tensor, repeats: i64) -> Tensor {
    if repeats == 1 {
        return x_bgsd.shallow_clone();
    }
    x_bgsd.repeat_interleave_self_int(repeats, 1, None)
}

/// The formula as it stands, with softmax in FP32 (or FP64) whatever the inputs' dtype.
fn plain(
    q_bhtd: &Tensor,
    k_bhsd: &Tensor,
    v_bhsd: &Tensor,
    scores: &Scores,
    dropout: f64,
) -> Result<Tensor> {
    let op = "attention";
    let features = q_bhtd.size().last().copied().unwrap_or(1) as f64;
    let scale = scores.scale.unwrap_or(1.0 / features.sqrt());
    let mut scores_bhts = q_bhtd.f_matmul(&k_bhsd.transpose(-2, -1)).during(op)? * scale;
    let hidden = f64::NEG_INFINITY;
    scores_bhts = match scores.visible {
        MaskView::All => scores_bhts,
        MaskView::Causal => {
            let future = scores_bhts.ones_like().to_kind(Kind::Bool).triu(1);
            scores_bhts.f_masked_fill(&future, hidden).during(op)?
        }
        MaskView::Mask(mask) if mask.kind() == Kind::Bool => {
            scores_bhts.f_masked_fill(&mask.logical_not(), hidden).during(op)?
        }
        MaskView::Mask(bias) => scores_bhts.f_add(bias).during(op)?,
    };
    let exact = if q_bhtd.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    // Zeros, not NaN, where every key is hidden.
    let weights_bhts = scores_bhts.f_internal_safe_softmax(-1, exact).during(op)?;
    let mut weights_bhts = weights_bhts.to_kind(v_bhsd.kind());
    if dropout > 0.0 {
        weights_bhts = weights_bhts.f_dropout(dropout, true).during(op)?;
    }
    weights_bhts.f_matmul(v_bhsd).during(op)
}
