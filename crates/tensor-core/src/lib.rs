//! The floor of bert4rs: libtorch, and what `tch` leaves out of it.
//!
//! | module | holds |
//! | --- | --- |
//! | [`device`] | which device to use, CUDA loaded at run time |
//! | [`precision`] | dtypes of weights and compute, chosen once and passed on |
//! | [`fp8`] | which linear maps multiply in FP8 |
//! | [`int8`] | which linear maps multiply integers of 8 bits |
//! | [`cpu_isa`] | a lesser processor, played on this one |
//! | [`policy`] | which backend computes an operation: libtorch or own kernels |
//! | [`buffers`] | tensors that a model keeps beside its parameters |
//! | [`param`] | parameters, each with a [`param::Role`] from birth |
//! | [`autograd`] | autograd functions written in Rust, and their check |
//! | [`attention`] | attention, plain and fused |
//! | [`varlen`] | attention within the documents of packed rows, without a mask |
//! | [`random`] | seeds, and saving and restoring the random state |
//! | [`safetensors`] | tensors to and from files, never half-written |
//! | [`graph`] | CUDA graphs |
//! | [`stream`] | libtorch's CUDA streams, for kernels of our own |
//! | [`copy_stream`] | a CUDA stream for copies beside other work |
//! | [`distributed`] | processes that train together |
//! | [`files`] | files mapped into memory |
//! | [`parallel`] | work shared out to libtorch's threads |
//! | [`threads`] | how many threads there are, and how they wait |
//! | [`profile`] | where time goes: operations and our own spans |
//! | [`testing`] | for tests: a GPU, or a word on what was skipped |
//! | [`load`] | other work that the machine did meanwhile |
//! | [`memory`], [`cpu`], [`library`], [`speed_of_light`] | what this machine and process are |
//!
//! Only this crate names the version of `tch`; all others take [`Tensor`] from here.
//!
//! Errors: what a user's input can cause is a [`Error`]. A wrong shape inside a model is a
//! programmer's error and panics as in `tch`; [`error::catch_torch_error`] turns such a panic, and
//! the C++ exception behind it, back into an [`Error`] at the border of a program.

pub mod attention;
pub mod autograd;
pub mod buffers;
pub mod copy_stream;
pub mod cpu;
pub mod cpu_isa;
pub mod device;
pub mod distributed;
pub mod error;
pub mod files;
pub mod fp8;
pub mod graph;
pub mod int8;
pub mod library;
pub mod load;
pub mod memory;
pub mod parallel;
pub mod param;
pub mod policy;
pub mod precision;
pub mod profile;
pub mod random;
pub mod safetensors;
mod shim;
pub mod speed_of_light;
pub mod stream;
pub mod testing;
pub mod threads;
pub mod varlen;

pub use error::{Error, Result};
pub use tch::{
    Device, IndexOp, Kind, Reduction, TchError, Tensor, get_num_threads, no_grad_guard,
    set_num_threads,
};

/// Runs `body` without recording gradients.
///
/// Unlike `tch::no_grad`, it turns them on again when `body` panics too, so that what
/// [`error::catch_torch_error`] contains has no consequences.
pub fn no_grad<T>(body: impl FnOnce() -> T) -> T {
    let _guard = no_grad_guard();
    body()
}
