//! FP8: numbers of 8 bits with a factor beside them, for products at twice BF16's rate.
//!
//! | module | holds |
//! | --- | --- |
//! | [`Format`] | the two formats, and FP32 rounded to them |
//! | [`cast()`] | a matrix in FP8, with its factor and its transposed copy |
//! | [`Fp8Linear`] | a linear map whose three products are FP8 |
//!
//! `x` becomes `round(x · factor)`, where the factor brings the largest magnitude to the format's
//! largest number; `inverse = 1 / factor` brings it back. The factor is of a tensor or of a row.

mod cast;
mod format;
mod linear;
mod product;

pub use cast::{Cast, Factor, Scaled, cast};
pub use format::Format;
pub use linear::Fp8Linear;
pub use product::{product, unsupported_reason};
