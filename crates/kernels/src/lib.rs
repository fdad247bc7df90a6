//! Fused kernels: what libtorch does in many passes over memory, done in one.
//!
//! | module | holds |
//! | --- | --- |
//! | [`activation`] | activation functions and gates |
//! | [`adamw`] | AdamW in one pass: moments, master weight and working weight |
//! | [`attention`] | attention and its backward pass, block by block |
//! | [`cross_entropy`] | the output layer and its loss, without holding all logits |
//! | [`cuda`] | the kernels on NVIDIA GPUs |
//! | [`embedding`] | lookups in a table, whose gradient has only the rows looked up |
//! | [`fp8`] | numbers of 8 bits: casts, products, a linear map |
//! | [`gemm`] | stacked matrix products, symmetric ones at half the cost |
//! | [`muon`] | what Muon does before and after its products |
//! | [`norm`] | layer norm and RMS norm, with the sum before them |
//! | [`rotary`] | rotary positions of heads, with the norm of each before them |
//! | [`sum_of_squares`] | sums of squares, for norms of gradients |
//! | [`weight`] | the forms in which an exact weight is kept |
//! | [`cpu`] | building blocks on the CPU: instruction sets, lanes, packing, products |
//!
//! Each kernel is written once on slices, as a function that is always inlined, and compiled
//! for every instruction set of [`cpu::isa::Isa`]; the one to run is chosen on the machine that it
//! runs on. Those of optimizers use multiplications and additions, never fused ones, so that all
//! of them give the same bits; those of models agree within rounding.
//!
//! This is the only crate with `unsafe` kernels in it. Its public functions are safe.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod cpu;
pub mod cross_entropy;
pub mod cuda;
pub mod embedding;
pub mod fp8;
pub mod gemm;
pub mod muon;
pub mod norm;
pub mod rotary;
pub mod sum_of_squares;
#[cfg(test)]
mod testing;
pub mod weight;
