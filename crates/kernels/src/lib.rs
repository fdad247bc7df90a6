//! Fused kernels for training: what libtorch does in many passes over memory, done in one, on CPUs
//! and on NVIDIA GPUs.
//!
//! Functions take and return libtorch tensors; those of models take part in autograd. Each looks at
//! where its tensors lie: on a CPU it runs SIMD chosen at run time, on a GPU a CUDA kernel compiled
//! for the device at hand. Nothing of CUDA is needed to build, nor to run without a GPU.
//!
//! ```
//! use bert4rs_kernels::norm::{NormArgs, NormKind, add_and_normalize};
//! use bert4rs_tensor_core::{Device, Kind, Tensor};
//!
//! let place = (Kind::Float, Device::Cpu);
//! let (x, y) = (Tensor::randn([4, 64], place), Tensor::randn([4, 64], place));
//! let weight = Tensor::ones([64], place).set_requires_grad(true);
//! let norm = NormArgs { norm_kind: NormKind::Rms, weight: &weight, bias: None, eps: 1e-6 };
//!
//! // The sum and its norm in one pass, and their gradients in another.
//! let [normed, sum] = add_and_normalize(&norm, &x, Some(&y))?;
//! assert!((normed.detach() - norm.forward(&sum)).abs().max().double_value(&[]) < 1e-5);
//! normed.square().sum(Kind::Float).backward();
//! assert!(weight.grad().defined());
//! # Ok::<(), bert4rs_tensor_core::Error>(())
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`activation`] | activation functions and gates |
//! | [`norm`] | layer norm and RMS norm, with the sum before them |
//! | [`rotary`] | rotary positions of heads, with the norm of each before them |
//! | [`embedding`] | lookups in a table, whose gradient has only the rows looked up |
//! | [`attention`] | attention that computes only what is seen |
//! | [`cross_entropy`] | the output layer and its loss, without holding all logits |
//! | [`adamw`] | AdamW in one pass: moments, master weight and working weight |
//! | [`muon`] | what Muon does before and after its products |
//! | [`gemm`] | stacked matrix products, symmetric ones at half the cost |
//! | [`sum_of_squares`] | sums of squares, for norms of gradients |
//! | [`weight`] | the forms in which an exact weight is kept |
//! | [`fp8`] | numbers of 8 bits: casts, products, a linear map |
//! | [`int8`] | integers of 8 bits: packing, products, a linear map |
//! | [`cpu`] | what CPU kernels are made of: instruction sets, lanes, packing, products |
//! | [`cuda`] | what GPU kernels are made of: sources, compiler, cache, launches |
//!
//! A function named `supports` says what a kernel takes; whether it is taken where libtorch has the
//! same is for a [`Policy`](bert4rs_tensor_core::policy::Policy) to decide.
//!
//! A CPU kernel is written once on slices, as a function that is always inlined, and compiled for
//! every instruction set of [`cpu::isa::Isa`]. Those of optimizers use multiplications and
//! additions, never fused ones, so that all of them give the same bits; those of models agree
//! within rounding. `unsafe` stays inside: the public functions are safe.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod cpu;
pub mod cross_entropy;
pub mod cuda;
pub mod embedding;
pub mod fp8;
pub mod gemm;
pub mod int8;
pub mod muon;
pub mod norm;
pub mod rotary;
pub mod sum_of_squares;
#[cfg(test)]
mod testing;
pub mod weight;
