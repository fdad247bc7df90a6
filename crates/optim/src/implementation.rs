//! How the passes over memory of an update are computed: by libtorch's operations or by our
//! kernels.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::policy::{Op, Policy};
use bert4rs_tensor_core::{Kind, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How a step's passes over memory are computed. All give the same up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateImplementation {
    /// `Fused` where it works, else `Plain`.
    #[default]
    Auto,
    /// By libtorch's operations, on any device and in FP64 too: the reference.
    Plain,
    /// In as few passes over memory as there can be. FP32 and BF16 on the CPU.
    Fused,
}

/// Whether those of `params` that `mine` marks go through the fused kernels, as the setting and,
/// for `op`, the policy ask.
///
/// # Errors
/// `fused` where a kernel can't take one of them.
pub(crate) fn uses_kernels(
    (key, implementation): (&str, UpdateImplementation),
    (policy, op): (&Policy, Op),
    params: &[Param],
    mine: &[bool],
) -> Result<bool> {
    let marked = params.iter().zip(mine).filter(|(_, mine)| **mine);
    let obstacle =
        marked.map(|(param, _)| param).find_map(|param| fused_obstacle(param, policy, op));
    match (implementation, obstacle) {
        (UpdateImplementation::Plain, _) | (UpdateImplementation::Auto, Some(_)) => Ok(false),
        (UpdateImplementation::Auto | UpdateImplementation::Fused, None) => Ok(true),
        (UpdateImplementation::Fused, Some(reason)) => {
            Err(Error::Config { key: key.into(), value: "fused".into(), reason })
        }
    }
}

/// Why a fused kernel can't take `param`, if so.
fn fused_obstacle(param: &Param, policy: &Policy, op: Op) -> Option<String> {
    let (weight, name) = (&param.weight, &param.name);
    let obstacle = match weight.kind() {
        _ if !policy.takes_own(op, weight) => {
            format!("is on {:?}, where our kernels are not asked for", weight.device())
        }
        Kind::Float | Kind::BFloat16 if weight.is_contiguous() => return None,
        Kind::Float | Kind::BFloat16 => "is not contiguous".into(),
        kind => format!("is {kind:?}, neither FP32 nor BF16"),
    };
    Some(format!("{name} {obstacle}; use \"plain\" or \"auto\""))
}

/// `grad` as the kernels read it: dense, FP32 or BF16. Others are converted.
pub(crate) fn kernel_grad(grad: &Tensor) -> Result<Tensor> {
    let op = "gradient for a kernel";
    let grad = match grad.kind() {
        Kind::Float | Kind::BFloat16 => grad.shallow_clone(),
        _ => grad.f_to_kind(Kind::Float).during(op)?,
    };
    Ok(grad.f_contiguous().during(op)?)
}
