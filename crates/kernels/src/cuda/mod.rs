//! What kernels on NVIDIA GPUs are made of.
//!
//! | module | holds |
//! | --- | --- |
//! | [`source`] | the CUDA C sources |
//! | [`nvrtc`] | the compiler, loaded at run time |
//! | [`kernel_cache`] | what was compiled, kept on disk |
//! | `launch` | loading and launching on libtorch's stream and memory |
//! | `measured` | choices between two ways, by a measurement on the device, kept on disk |
//! | `column_sums` | sums of columns, which several backward passes end with |
//! | `emulator` | kernels run on the CPU, for tests |
//!
//! Nothing of CUDA is needed to build, nor to run on a machine without a GPU. A kernel is compiled
//! for the device at hand when it is first needed, once for all processes. The public functions
//! of this crate come here by themselves where their tensors lie on a GPU.

pub(crate) mod column_sums;
#[cfg(test)]
mod emulator;
pub mod kernel_cache;
pub(crate) mod launch;
pub(crate) mod measured;
pub mod nvrtc;
pub mod source;

pub use launch::capability;

use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};

/// The most blocks that a grid has in its second and third direction.
pub(crate) const MOST_GRID_Y: u32 = 65_535;

/// Checks that `tensor` is dense, of `kind` and on `device`. `what` names it in the error.
pub(crate) fn check(tensor: &Tensor, kind: Kind, device: Device, what: &str) -> Result<()> {
    let refuse = |reason: String| {
        Err(Error::Unsupported { what: format!("a CUDA kernel on {what}"), reason })
    };
    if !tensor.defined() {
        return refuse("the tensor is undefined".into());
    }
    if tensor.device() != device {
        return refuse(format!("it is on {:?}, not on {device:?}", tensor.device()));
    }
    if tensor.kind() != kind {
        return refuse(format!("its dtype is {:?}, not {kind:?}", tensor.kind()));
    }
    if !tensor.is_contiguous() {
        return refuse(format!("it is not contiguous (strides {:?})", tensor.stride()));
    }
    Ok(())
}

/// [`check`] for a tensor of FP32 or BF16.
pub(crate) fn check_float(tensor: &Tensor, what: &str) -> Result<()> {
    let kind = if tensor.kind() == Kind::BFloat16 { Kind::BFloat16 } else { Kind::Float };
    check(tensor, kind, tensor.device(), what)
}

/// Checks that kernels can count to `count` in 32 bits.
pub(crate) fn check_int(count: usize, what: &str) -> Result<()> {
    if i32::try_from(count).is_ok() { Ok(()) } else { Err(too_large(what, count as i64)) }
}

/// The error for a size that a kernel cannot count.
pub(crate) fn too_large(what: &str, found: i64) -> Error {
    Error::Unsupported {
        what: format!("a CUDA kernel on {found} {what}"),
        reason: "too many".into(),
    }
}

/// Whether `tensor` begins where 16 bytes can be accessed at once. libtorch's own tensors do; a
/// part of one may not.
pub(crate) fn is_aligned(tensor: &Tensor) -> bool {
    (tensor.data_ptr() as usize).is_multiple_of(16)
}

/// A kernel's name for FP32 or for BF16.
pub(crate) fn by_kind(kind: Kind, float: &'static str, bf16: &'static str) -> &'static str {
    if kind == Kind::BFloat16 { bf16 } else { float }
}

/// A tensor's address, as kernels take it in a struct; 0 for none.
pub(crate) fn address<'a>(tensor: impl Into<Option<&'a Tensor>>) -> u64 {
    tensor.into().map_or(0, |tensor| tensor.data_ptr() as u64)
}

/// How many chunks of `size` a kernel makes of `count` values where one launch goes over many
/// tensors: even an empty one takes a chunk, in which nothing is done.
pub(crate) fn chunks(count: u64, size: u64) -> u32 {
    count.div_ceil(size).max(1) as u32
}

/// How many parts of `size` hold `count`.
pub(crate) fn blocks(count: i64, size: i64) -> u32 {
    (count.max(0) as u64).div_ceil(size as u64) as u32
}
