//! An exact weight as CUDA kernels take it, in one of the forms of `weight.cuh`.

use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

use super::{Weight, same_count};
use crate::cuda::check;

/// The form's number in `weight.cuh`, the working weight and what lies beside it, all checked.
pub(crate) fn parts<'a>(
    op: &'static str,
    weight: &'a Weight<'_>,
    count: usize,
    device: Device,
) -> Result<(u32, &'a Tensor, Option<&'a Tensor>)> {
    let check = |tensor: &Tensor, kind, what: &'static str| {
        check(tensor, kind, device, what)?;
        same_count(op, count, tensor.numel(), what)
    };
    match weight {
        Weight::Single(weight) => {
            check(weight, Kind::Float, "weight")?;
            Ok((0, weight, None))
        }
        Weight::Master { master, weight } => {
            check(master, Kind::Float, "master weight")?;
            check(weight, Kind::BFloat16, "weight")?;
            Ok((1, weight, Some(master)))
        }
        Weight::Bf16Residual { weight, residual: low } => {
            check(weight, Kind::BFloat16, "weight")?;
            check(low, Kind::Int16, "low bits")?;
            Ok((2, weight, Some(low)))
        }
    }
}
