//! Products of FP8 matrices.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};

use super::Scaled;

const OP: &str = "FP8 product";

/// What libtorch's FP8 products need the sizes of matrices to be multiples of.
pub(crate) const MULTIPLE: i64 = 16;

/// The least compute capability with FP8 matrix units: Ada's.
const LEAST_CAPABILITY: (i32, i32) = (8, 9);

/// Why FP8 products can't be had on `device`; none where they can. On the CPU they are emulated.
pub fn unsupported_reason(device: Device) -> Option<Error> {
    let Device::Cuda(index) = device else { return None };
    let refuse = |reason: String| {
        Some(Error::Unsupported {
            what: "training in FP8".into(),
            reason: format!("{reason}; use BF16"),
        })
    };
    match crate::cuda::capability(index) {
        Err(error) => refuse(error.to_string()),
        Ok(found) if found < LEAST_CAPABILITY => refuse(format!(
            "cuda:{index} has compute capability {}.{}, FP8 needs {}.{} (Ada, Hopper or newer)",
            found.0, found.1, LEAST_CAPABILITY.0, LEAST_CAPABILITY.1
        )),
        Ok(_) => None,
    }
}

/// `a bᵀ`, plus `bias`, rounded once to `kind`: `a` is `[m, c]`, `b` `[n, c]`, `bias` `[n]`.
///
/// Sums are FP32 where `exact`; else, on Hopper, of 14 bits of mantissa, which is faster and good
/// enough for a forward pass. On the CPU it is an emulation for tests: FP32 products of the
/// numbers that the FP8 values stand for.
///
/// # Errors
/// A GPU without FP8 matrix units, sizes that are no multiples of 16 there, and what libtorch
/// throws.
pub fn product(
    a: &Scaled,
    b: &Scaled,
    bias: Option<&Tensor>,
    kind: Kind,
    exact: bool,
) -> Result<Tensor> {
    match a.values.device() {
        Device::Cuda(_) => on_matrix_units(a, b, bias, kind, exact),
        _ => emulated(a, b, bias, kind),
    }
}

fn emulated(a: &Scaled, b: &Scaled, bias: Option<&Tensor>, kind: Kind) -> Result<Tensor> {
    let wide = |scaled: &Scaled| scaled.values.f_to_kind(Kind::Float).during(OP);
    let sums = wide(a)?.f_matmul(&wide(b)?.f_transpose(0, 1).during(OP)?).during(OP)?;
    let inverse_b = if b.inverse.dim() == 2 {
        b.inverse.f_transpose(0, 1).during(OP)?
    } else {
        b.inverse.shallow_clone()
    };
    let scaled = sums.f_mul(&a.inverse).during(OP)?.f_mul(&inverse_b).during(OP)?;
    let biased = match bias {
        Some(bias) => scaled.f_add(&bias.f_to_kind(Kind::Float).during(OP)?).during(OP)?,
        None => scaled,
    };
    biased.f_to_kind(kind).during(OP)
}

fn on_matrix_units(
    a: &Scaled,
    b: &Scaled,
    bias: Option<&Tensor>,
    kind: Kind,
    exact: bool,
) -> Result<Tensor> {
    if let Some(error) = unsupported_reason(a.values.device()) {
        return Err(error);
    }
    for (tensor, scaled) in [("left operand", a), ("right operand", b)] {
        let found = scaled.values.size();
        if found.iter().any(|size| size % MULTIPLE != 0) {
            let expected = format!("sizes that are multiples of {MULTIPLE}");
            return Err(Error::Shape { op: OP, tensor, found, expected });
        }
    }
    let by_row = b.inverse.dim() == 2;
    let inverse_b =
        if by_row { b.inverse.f_transpose(0, 1).during(OP)? } else { b.inverse.shallow_clone() };
    // With factors of rows the library knows only BF16 results; FP32 ones take no bias.
    let out_kind = if by_row { Kind::BFloat16 } else { kind };
    let fused_bias = bias.filter(|_| out_kind == Kind::BFloat16 && !by_row);
    let fused = fused_bias.map(|bias| bias.f_to_kind(out_kind)).transpose().during(OP)?;
    let right = b.values.f_transpose(0, 1).during(OP)?;
    let out = a
        .values
        .f_internal_scaled_mm(
            &right,
            &a.inverse,
            &inverse_b,
            fused.as_ref(),
            None,
            out_kind,
            !exact,
        )
        .during(OP)?
        .f_to_kind(kind)
        .during(OP)?;
    match bias.filter(|_| fused_bias.is_none()) {
        Some(bias) => out.f_add(&bias.f_to_kind(kind).during(OP)?).during(OP),
        None => Ok(out),
    }
}
