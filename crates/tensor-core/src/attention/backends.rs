//! Which of libtorch's kernels computes attention, and how it is made to be that one.
//!
//! libtorch takes the first of an order of its own that fits; on Hopper that is cuDNN's. A kernel
//! that is asked for therefore runs with all others switched off, and one that would be wrong is
//! switched off for the call.

#![expect(unsafe_code, reason = "the border to C++")]

use std::ffi::c_void;
use std::ptr::{from_ref, null_mut};

use serde::Serialize;
use tch::{Device, Tensor};

use super::{AttentionImplementation, Scores, is_grouped};
use crate::error::{Error, Result};
use crate::shim::{self, RawSdpaArgs};

/// libtorch's kernels for attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SdpaBackend {
    /// Products and softmax one by one, holding all scores.
    Math,
    /// Flash attention: scores exist only block by block. On CPU and GPU.
    Flash,
    /// Memory-efficient attention: the same for more dtypes and with a mask. On GPUs.
    Efficient,
    /// cuDNN's. On GPUs.
    Cudnn,
}

impl SdpaBackend {
    const ALL: [Self; 4] = [Self::Math, Self::Flash, Self::Efficient, Self::Cudnn];

    /// As in `csrc/attention.cpp`.
    fn bit(self) -> i32 {
        match self {
            Self::Flash => 1,
            Self::Efficient => 2,
            Self::Math => 4,
            Self::Cudnn => 8,
        }
    }

    /// What libtorch's number stands for.
    fn of_choice(choice: i64) -> Option<Self> {
        usize::try_from(choice).ok().and_then(|index| Self::ALL.get(index)).copied()
    }
}

/// The kernels that libtorch may choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AllowedBackends(i32);

impl AllowedBackends {
    /// libtorch's own choice.
    const ALL: Self = Self(15);

    fn only(backend: SdpaBackend) -> Self {
        Self(backend.bit())
    }

    fn without(self, backend: SdpaBackend) -> Self {
        Self(self.0 & !backend.bit())
    }
}

/// What libtorch's operation takes.
pub(super) struct SdpaCall<'a> {
    q_bhtd: &'a Tensor,
    k_bgsd: &'a Tensor,
    v_bgsd: &'a Tensor,
    mask: Option<&'a Tensor>,
    causal: bool,
    scale: Option<f64>,
    grouped: bool,
}

impl<'a> SdpaCall<'a> {
    pub(super) fn new(
        [q_bhtd, k_bgsd, v_bgsd]: [&'a Tensor; 3],
        scores: &Scores<'a>,
    ) -> Result<Self> {
        let (mask, causal) = scores.visible.for_kernel(q_bhtd, k_bgsd)?;
        let grouped = is_grouped(q_bhtd, k_bgsd)?;
        Ok(Self { q_bhtd, k_bgsd, v_bgsd, mask, causal, scale: scores.scale, grouped })
    }

    /// The result, by a kernel that `implementation` stands for.
    pub(super) fn run(&self, implementation: AttentionImplementation) -> Result<Tensor> {
        let allowed = self.allowed(implementation)?;
        // What would be chosen is looked at first: libtorch's own refusal says little.
        if wanted(implementation).is_some() {
            self.backend(implementation)?;
        }
        let (args, mut result) = (self.raw(allowed), null_mut());
        // SAFETY: the tensors live through the call, which writes a new one or returns a message.
        unsafe {
            shim::check("fused attention", shim::b4_sdpa(&args, &mut result))?;
            shim::take_tensor(result)
        }
        .ok_or_else(|| Error::Torch { op: "fused attention".into(), message: "no result".into() })
    }

    /// The kernel that [`run`](Self::run) takes.
    pub(super) fn backend(&self, implementation: AttentionImplementation) -> Result<SdpaBackend> {
        let (args, mut choice) = (self.raw(self.allowed(implementation)?), 0);
        // SAFETY: the tensors live through the call, which writes the number or returns a message.
        unsafe {
            shim::check("attention backend", shim::b4_sdpa_choice(&args, &mut choice))?;
        }
        let found = SdpaBackend::of_choice(choice);
        match (found, wanted(implementation)) {
            (Some(found), None) => Ok(found),
            (Some(found), Some(wanted)) if found == wanted => Ok(found),
            (_, Some(wanted)) => Err(refused(wanted, "libtorch has no such kernel for them")),
            (None, None) => Err(Error::Unsupported {
                what: "fused attention".into(),
                reason: format!("libtorch has no kernel for it ({choice}); use plain attention"),
            }),
        }
    }

    /// What libtorch may choose from for `implementation`.
    fn allowed(&self, implementation: AttentionImplementation) -> Result<AllowedBackends> {
        let is_on_gpu = self.q_bhtd.device() != Device::Cpu;
        match (wanted(implementation), self.reason_against_cudnn()) {
            (Some(SdpaBackend::Cudnn), Some(reason)) => Err(refused(SdpaBackend::Cudnn, reason)),
            (Some(wanted), _) => Ok(AllowedBackends::only(wanted)),
            (None, Some(_)) if is_on_gpu => Ok(AllowedBackends::ALL.without(SdpaBackend::Cudnn)),
            (None, _) => Ok(AllowedBackends::ALL),
        }
    }

    /// Why cuDNN's kernel, which libtorch 2.11 prefers on Hopper, must not run, if so.
    fn reason_against_cudnn(&self) -> Option<&'static str> {
        let mask = self.mask?;
        if mask.requires_grad() {
            return Some("it has no gradient for a bias");
        }
        // Gradients are NaN at lengths of 64 beyond a multiple of 128 (pytorch issue 196678); what
        // other remainders do is not known.
        let is_whole = |x: &Tensor| x.size().get(2).is_some_and(|length| length % 128 == 0);
        let whole = is_whole(self.q_bhtd) && is_whole(self.k_bgsd);
        (!whole)
            .then_some("with a mask its gradients are NaN at some lengths, not at multiples of 128")
    }

    fn raw(&self, allowed: AllowedBackends) -> RawSdpaArgs {
        let raw = shim::borrow_raw;
        RawSdpaArgs {
            query: raw(self.q_bhtd),
            key: raw(self.k_bgsd),
            value: raw(self.v_bgsd),
            mask: self.mask.map_or(null_mut::<c_void>().cast_const(), raw),
            scale: self.scale.as_ref().map_or(std::ptr::null(), from_ref),
            causal: self.causal,
            grouped: self.grouped,
            allowed: allowed.0,
        }
    }
}

/// The one kernel that `implementation` names, if it names one.
fn wanted(implementation: AttentionImplementation) -> Option<SdpaBackend> {
    match implementation {
        AttentionImplementation::Flash => Some(SdpaBackend::Flash),
        AttentionImplementation::Efficient => Some(SdpaBackend::Efficient),
        AttentionImplementation::Cudnn => Some(SdpaBackend::Cudnn),
        AttentionImplementation::Math => Some(SdpaBackend::Math),
        _ => None,
    }
}

/// The error where the kernel that is asked for can't be had.
fn refused(wanted: SdpaBackend, reason: &str) -> Error {
    Error::Unsupported {
        what: format!("{wanted:?} attention for these inputs").to_lowercase(),
        reason: format!("{reason}; set compute.attention = \"fused\""),
    }
}

/// The kernel that [`attend`](super::attend) takes for such inputs, with an `implementation` that
/// is libtorch's.
///
/// # Errors
/// Inputs that [`attend`](super::attend) refuses, or for which libtorch has no kernel.
pub fn sdpa_backend(
    q_bhtd: &Tensor,
    k_bgsd: &Tensor,
    v_bgsd: &Tensor,
    scores: &Scores,
    implementation: AttentionImplementation,
) -> Result<SdpaBackend> {
    SdpaCall::new([q_bhtd, k_bgsd, v_bgsd], scores)?.backend(implementation)
}

#[cfg(test)]
mod tests {
    use super::super::MaskView;
    use super::*;
    use crate::Kind;

    /// Queries, keys and values of one head, of so many tokens.
    fn tokens(count: i64) -> Tensor {
        Tensor::zeros([1, 1, count, 64], (Kind::BFloat16, Device::Cpu)).set_requires_grad(true)
    }

    /// `body` on a call with a mask by row of `count` tokens.
    fn with_mask<T>(count: i64, gradient: bool, body: impl FnOnce(&SdpaCall) -> T) -> T {
        let x = tokens(count);
        let mask = Tensor::zeros([1, 1, count, count], (Kind::BFloat16, Device::Cpu));
        let mask = mask.set_requires_grad(gradient);
        let scores = Scores { visible: MaskView::Mask(&mask), scale: None };
        body(&SdpaCall::new([&x, &x, &x], &scores).unwrap())
    }

    /// The check of libtorch that ended T5's first step: it comes before any device is chosen.
    #[test]
    fn cudnn_has_no_gradient_for_a_bias() {
        let run = |gradient| {
            with_mask(128, gradient, |call| {
                let (args, mut result) = (call.raw(AllowedBackends::ALL), null_mut());
                // SAFETY: as in `SdpaCall::run`.
                let outcome =
                    unsafe { shim::check("a test", shim::b4_cudnn_attention(&args, &mut result)) };
                outcome.unwrap_err().to_string()
            })
        };
        assert!(run(true).contains("not differentiable"), "{}", run(true));
        // Without: the machine has no GPU, or these tensors are not on it.
        assert!(!run(false).contains("not differentiable"), "{}", run(false));
    }

    #[test]
    fn cudnn_is_not_chosen_where_it_is_wrong() {
        let against = |count, gradient| {
            with_mask(count, gradient, |call| call.reason_against_cudnn().is_some())
        };
        assert!(against(128, true), "no gradient for a bias");
        for count in [64, 192, 320, 192 + 384, 100] {
            assert!(against(count, false), "{count}");
        }
        assert!(!against(128, false) && !against(512, false));
        let x = tokens(192);
        for visible in [MaskView::All, MaskView::Causal] {
            let scores = Scores { visible, scale: None };
            let call = SdpaCall::new([&x, &x, &x], &scores).unwrap();
            assert_eq!(call.reason_against_cudnn(), None, "without a mask");
        }
        with_mask(192, false, |call| {
            let error = call.run(AttentionImplementation::Cudnn).unwrap_err().to_string();
            assert!(error.contains("cudnn") && error.contains("NaN"), "{error}");
        });
    }

    /// libtorch's own switches, which are as before afterwards.
    #[test]
    fn a_kernel_that_is_asked_for_is_chosen_whatever_comes_first() {
        let x = tokens(128);
        let scores = Scores { visible: MaskView::All, scale: None };
        let call = SdpaCall::new([&x, &x, &x], &scores).unwrap();
        let of = |implementation| call.backend(implementation).ok();
        assert_eq!(of(AttentionImplementation::Fused), Some(SdpaBackend::Flash));
        assert_eq!(of(AttentionImplementation::Math), Some(SdpaBackend::Math));
        assert_eq!(of(AttentionImplementation::Flash), Some(SdpaBackend::Flash));
        assert_eq!(of(AttentionImplementation::Efficient), None);
        assert_eq!(of(AttentionImplementation::Fused), Some(SdpaBackend::Flash));
    }

    #[test]
    fn libtorch_numbers_its_kernels() {
        let numbers = [-1, 0, 1, 2, 3, 4].map(SdpaBackend::of_choice);
        use SdpaBackend::{Cudnn, Efficient, Flash, Math};
        let expected = [None, Some(Math), Some(Flash), Some(Efficient), Some(Cudnn), None];
        assert_eq!(numbers, expected);
        let bits = SdpaBackend::ALL.map(SdpaBackend::bit);
        assert_eq!(bits.iter().sum::<i32>(), AllowedBackends::ALL.0);
    }
}
