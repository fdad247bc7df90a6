//! Integers and their products in libtorch's operations.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Result, Tensor};

const OP: &str = "8-bit integers by libtorch";

/// The rows of `x_rc` as integers from −127 to 127, held as FP64 `[r, c]`, and what brings them
/// back, FP32 `[r, 1]`.
///
/// # Errors
/// What libtorch throws.
pub fn quantize_rows(x_rc: &Tensor) -> Result<(Tensor, Tensor)> {
    let x_rc = x_rc.f_to_kind(Kind::Float).during(OP)?;
    let largest = x_rc.f_abs().during(OP)?.f_amax([1i64].as_slice(), true).during(OP)?;
    let is_too_small = largest.f_lt(127.0 * f64::from(f32::MIN_POSITIVE)).during(OP)?;
    let most = largest.f_full_like(127.0).during(OP)?;
    let none = largest.f_zeros_like().during(OP)?;
    let factor = most.f_div(&largest).during(OP)?;
    let factor = none.f_where_self(&is_too_small, &factor).during(OP)?;
    let values = x_rc.f_mul(&factor).during(OP)?.f_clamp(-127.0, 127.0).during(OP)?;
    let values = values.f_round().during(OP)?.f_to_kind(Kind::Double).during(OP)?;
    // NaN where the largest is not finite.
    let nothing = largest.f_sub(&largest).during(OP)?;
    let inverse = largest.f_div(&most).during(OP)?.f_add(&nothing).during(OP)?;
    Ok((values, inverse))
}

/// `a bᵀ`, plus `bias`, in `kind`, of matrices by [`quantize_rows`]. FP64 holds sums of up to 2³⁹
/// terms exactly.
///
/// # Errors
/// What libtorch throws.
pub fn product(
    (a, inverse_a): &(Tensor, Tensor),
    (b, inverse_b): &(Tensor, Tensor),
    bias: Option<&Tensor>,
    kind: Kind,
) -> Result<Tensor> {
    let sums = a.f_matmul(&b.f_transpose(0, 1).during(OP)?).during(OP)?;
    let sums = sums.f_to_kind(Kind::Float).during(OP)?.f_mul(inverse_a).during(OP)?;
    let scaled = sums.f_mul(&inverse_b.f_transpose(0, 1).during(OP)?).during(OP)?;
    let scaled = match bias {
        Some(bias) => scaled.f_add(&bias.f_to_kind(Kind::Float).during(OP)?).during(OP)?,
        None => scaled,
    };
    scaled.f_to_kind(kind).during(OP)
}
