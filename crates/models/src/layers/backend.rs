//! Which code computes attention: our own kernel, one of libtorch's, or the plain formula.
//!
//! Axes: `b` batch, `h` heads, `g` heads of keys and values, `t` queries, `s` keys, `e` features
//! of a head.

use bert4rs_kernels::attention as kernel;
use bert4rs_tensor_core::attention::{self, AttentionImplementation, AttentionOptions, Scores};
use bert4rs_tensor_core::policy::{Op, Policy};
use bert4rs_tensor_core::varlen::{self, AttentionWindow, VarlenLayout};
use bert4rs_tensor_core::{Error, Tensor};
use serde::Serialize;

use crate::error::Result;
use crate::mask::AttentionMask;

/// The code that computed attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionBackend {
    /// Products and softmax one by one, by us.
    Plain,
    /// Our own kernel, which skips blocks that the mask hides.
    Own,
    /// Products and softmax one by one, by libtorch.
    Math,
    /// libtorch's flash attention.
    Flash,
    /// libtorch's memory-efficient attention.
    Efficient,
    /// cuDNN's.
    Cudnn,
    /// libtorch's flash attention, document by document without a mask.
    Varlen,
}

/// Queries, keys and values of an attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads<'a> {
    /// `[b, h, t, e]`
    pub(super) q_bhte: &'a Tensor,
    /// `[b, g, s, e]`
    pub(super) k_bgse: &'a Tensor,
    /// `[b, g, s, e]`
    pub(super) v_bgse: &'a Tensor,
    /// What chooses between our kernel and libtorch's where the best is asked for.
    pub(super) policy: &'a Policy,
}

impl Heads<'_> {
    /// `softmax(q kᵀ · scale + bias) v` over the keys that the mask shows, `[b, h, t, e]`, by what
    /// the options ask for; `1 / √e` if there is no scale.
    pub(super) fn attend(
        self,
        mask: &AttentionMask,
        scale: Option<f64>,
        options: &AttentionOptions,
    ) -> Result<Tensor> {
        let Self { q_bhte, k_bgse, v_bgse, .. } = self;
        let features = q_bhte.size().last().copied().unwrap_or(1) as f64;
        let factor = scale.unwrap_or(1.0 / features.sqrt());
        if let Some((packing, window)) = self.takes_varlen(mask, options)? {
            return Ok(varlen::flash([q_bhte, k_bgse, v_bgse], packing, window, factor)?);
        }
        if self.takes_own(mask, options)?
            && let Some(by_position) = mask.by_position()
        {
            let args =
                kernel::AttentionArgs { visible: by_position, bias: mask.bias(), scale: factor };
            return Ok(kernel::attend(q_bhte, k_bgse, v_bgse, &args)?);
        }
        let scores = Scores { visible: mask.borrow(self.q_bhte.kind()), scale };
        Ok(attention::attend(q_bhte, k_bgse, v_bgse, &scores, options)?)
    }

    /// The code that [`attend`](Self::attend) takes.
    pub(super) fn backend(
        self,
        mask: &AttentionMask,
        scale: Option<f64>,
        options: &AttentionOptions,
    ) -> Result<AttentionBackend> {
        if self.takes_varlen(mask, options)?.is_some() {
            return Ok(AttentionBackend::Varlen);
        }
        if self.takes_own(mask, options)? {
            return Ok(AttentionBackend::Own);
        }
        if options.implementation == AttentionImplementation::Plain {
            return Ok(AttentionBackend::Plain);
        }
        if options.implementation == AttentionImplementation::Math {
            return Ok(AttentionBackend::Math);
        }
        let scores = Scores { visible: mask.borrow(self.q_bhte.kind()), scale };
        let Self { q_bhte, k_bgse, v_bgse, .. } = self;
        let chosen =
            attention::sdpa_backend(q_bhte, k_bgse, v_bgse, &scores, options.implementation)?;
        Ok(match chosen {
            attention::SdpaBackend::Math => AttentionBackend::Math,
            attention::SdpaBackend::Flash => AttentionBackend::Flash,
            attention::SdpaBackend::Efficient => AttentionBackend::Efficient,
            attention::SdpaBackend::Cudnn => AttentionBackend::Cudnn,
        })
    }

    /// What flash attention by documents needs, where that is asked for and fits.
    fn takes_varlen<'a>(
        self,
        mask: &'a AttentionMask,
        options: &AttentionOptions,
    ) -> Result<Option<(&'a VarlenLayout, AttentionWindow)>> {
        let fits = options.implementation == AttentionImplementation::Varlen
            && options.dropout == 0.0
            && varlen::supports(self.q_bhte);
        if fits { mask.packing() } else { Ok(None) }
    }

    /// Whether our own kernel computes it: where it is asked for, and where the best is asked for
    /// and the policy says that it is that.
    fn takes_own(self, mask: &AttentionMask, options: &AttentionOptions) -> Result<bool> {
        let fits = options.dropout == 0.0
            && mask.by_position().is_some()
            && kernel::supports(self.q_bhte, self.k_bgse, self.v_bgse);
        match options.implementation {
            AttentionImplementation::Fused => {
                Ok(fits && self.policy.takes_own(Op::Attention, self.q_bhte))
            }
            AttentionImplementation::Own if fits => Ok(true),
            AttentionImplementation::Own => Err(Error::Unsupported {
                what: "our own attention (compute.attention = \"own\")".into(),
                reason: "it is for CPUs, FP32 or BF16, heads of a multiple of 32 features, no \
                         attention dropout, and masks by document and position; choose fused"
                    .into(),
            }
            .into()),
            _ => Ok(false),
        }
    }
}
