//! Exact FP32 values beside weights of lower precision.
//!
//! A parameter's exact value is its FP32 or FP64 weight itself, or an FP32 master beside a BF16
//! weight, or the BF16 weight and the 16 bits that it lacks; see
//! [`bert4rs_kernels::weight::split`] for the last.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Kind, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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

/// Moves `param` to the form that `masters` asks for. Returns the low bits, where they are kept
/// apart; the parameter then has no FP32 master any more.
///
/// # Errors
/// A weight of lower precision without a master: small updates would be lost in rounding. Or
/// low bits asked for beside a dtype other than BF16.
pub(crate) fn adopt(param: &mut Param, masters: Masters) -> Result<Option<Tensor>> {
    let refuse = |reason: String| Err(Error::Parameter { name: param.name.clone(), reason });
    match (param.weight.kind(), &param.master, masters) {
        (Kind::Float | Kind::Double, None, _) => Ok(None),
        (Kind::BFloat16 | Kind::Half, Some(_), Masters::Fp32) => Ok(None),
        (Kind::BFloat16, Some(master), Masters::Bf16Residual) => {
            let (weight, low) = split(master)?;
            let _guard = bert4rs_tensor_core::no_grad_guard();
            param.weight.f_copy_(&weight).during(&param.name)?;
            param.master = None;
            Ok(Some(low))
        }
        (kind, Some(_), Masters::Bf16Residual) => refuse(format!(
            "masters = \"bf16_residual\" needs BF16 weights, and these are {kind:?}"
        )),
        (kind, None, _) => refuse(format!(
            "{kind:?} weights without an FP32 master lose small updates; give Param::master"
        )),
        (kind, Some(_), _) => {
            refuse(format!("{kind:?} weights are exact already; a master is of no use"))
        }
    }
}

/// BF16 and low bits of an FP32 tensor, on any device.
pub(crate) fn split(exact: &Tensor) -> Result<(Tensor, Tensor)> {
    let op = "split a master weight";
    let bits = exact.f_contiguous().during(op)?.f_view_dtype(Kind::Int).during(op)?;
    // Casts between integers keep the low bits; the low half read as signed rounds the high up.
    let low = bits.f_to_kind(Kind::Int16).during(op)?;
    let high = (bits - low.to_kind(Kind::Int)).f_div_scalar_mode(65_536, "floor").during(op)?;
    let weight = high.f_to_kind(Kind::Int16).during(op)?.f_view_dtype(Kind::BFloat16);
    Ok((weight.during(op)?, low))
}

/// The FP32 tensor that [`split`] took apart.
pub(crate) fn join(weight: &Tensor, low: &Tensor) -> Result<Tensor> {
    let op = "join a master weight";
    let high = weight.detach().f_view_dtype(Kind::Int16).during(op)?.to_kind(Kind::Int);
    let bits = high.f_mul_scalar(65_536).during(op)? + low.to_kind(Kind::Int);
    Ok(bits.f_view_dtype(Kind::Float).during(op)?)
}

/// The exact value of `param`, to be changed in place and handed to [`write`].
pub(crate) fn read(param: &Param, low: Option<&Tensor>) -> Result<Tensor> {
    match low {
        Some(low) => join(&param.weight, low),
        None => Ok(param.master_or_weight().detach()),
    }
}

/// Makes the working weight, and the low bits if any, follow `exact`, which came from [`read`].
pub(crate) fn write(param: &mut Param, low: Option<&mut Tensor>, exact: &Tensor) -> Result<()> {
    let _guard = bert4rs_tensor_core::no_grad_guard();
    if let Some(low) = low {
        let (weight, bits) = split(exact)?;
        param.weight.f_copy_(&weight).during(&param.name)?;
        low.f_copy_(&bits).during(&param.name)?;
    } else if param.master.is_some() {
        param.weight.f_copy_(exact).during(&param.name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bert4rs_kernels::weight::{join_tensor, split_tensor};
    use bert4rs_tensor_core::Device;

    #[test]
    fn splits_as_the_kernel_does() {
        let exact = Tensor::randn([1000], (Kind::Float, Device::Cpu)).exp() - 1.0;
        let (weight, low) = split(&exact).unwrap();
        let (kernel_weight, kernel_low) = split_tensor(&exact).unwrap();
        assert!(weight.equal(&kernel_weight) && low.equal(&kernel_low));
        assert!(join(&weight, &low).unwrap().equal(&exact));
        assert!(join_tensor(&weight, &low).unwrap().equal(&exact));
    }
}
