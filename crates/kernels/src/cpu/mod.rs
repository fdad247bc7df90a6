//! What kernels on the CPU are made of.
//!
//! | module | holds |
//! | --- | --- |
//! | [`isa`] | which instruction set a kernel runs on, and its compilation for each |
//! | `lanes` | sixteen FP32 numbers at a time, portable and AVX-512 |
//! | `number` | the number types of operands, and 32-bit words of them |
//! | `views` | tensors seen as slices, checked |
//! | `tail` | the ends of rows that fill no vector |
//! | `transpose`, `pack` | matrices in the orders in which products read them |
//! | `product`, `micro_kernel` | small matrix products over packed operands |

pub mod isa;
pub(crate) mod lanes;
#[cfg(target_arch = "x86_64")]
pub(crate) mod micro_kernel;
pub(crate) mod number;
pub(crate) mod pack;
pub(crate) mod product;
pub(crate) mod tail;
pub(crate) mod transpose;
pub(crate) mod views;
