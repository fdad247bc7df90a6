//! Integers of 8 bits with a factor a row, for products that processors make faster than those of
//! floats.
//!
//! | module | holds |
//! | --- | --- |
//! | `quantize`, `pack` | a matrix as packed integers, by rows, by columns or both |
//! | `product()` | products of such matrices |
//! | [`Int8Linear`] | a linear map whose products are of integers |
//! | `reference` | the same in libtorch's operations, to the bit |
//!
//! A vector `v` along which a product sums becomes `round(v · 127 / max |v|)`, between −127 and
//! 127. Sums of products of these are exact; what brings them back, `max |v| / 127` of either side,
//! is multiplied with them once, in FP32. So every instruction set and thread count gives the
//! same bits. One value that is not finite makes all results of its vector NaN, so that a step
//! which overflowed is seen.
//!
//! Source of the scheme: row-wise factors as of torchao's INT8 training and SwitchBack
//! (arXiv 2304.13013).

mod dots;
mod linear;
mod pack;
mod product;
mod quantize;
pub mod reference;
#[cfg(test)]
mod tests;

pub use linear::{Int8Linear, unsupported_reason};
pub use product::product;
pub use quantize::{Orientation, Quantized, quantize};

/// The largest integer.
const MOST: f32 = 127.0;

/// The most terms of a sum that 32 bits hold.
pub const MOST_TERMS: i64 = 1 << 17;

/// What the products are made of on this processor, in words.
pub fn instructions() -> &'static str {
    match dots::DotIsa::fastest() {
        dots::DotIsa::Portable => "portable code, slower than floats",
        dots::DotIsa::Avx2 => "AVX2 (vpmaddubsw)",
        dots::DotIsa::Vnni256 => "AVX-VNNI (vpdpbusd, 256 bits)",
        dots::DotIsa::Vnni512 => "AVX-512 VNNI (vpdpbusd, 512 bits)",
    }
}
