//! Tensors seen as slices: dtype, device and layout are checked, then the pointer is taken.

#![expect(unsafe_code, reason = "libtorch hands out raw pointers to its storage")]

use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use half::bf16;

/// A number type that libtorch stores as this crate does.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    /// libtorch's name of it.
    const KIND: Kind;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
}

impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;
}

impl Element for i16 {
    const KIND: Kind = Kind::Int16;
}

/// Checks that `tensor` is a dense CPU tensor of `T`. `what` names it in the error.
fn check<T: Element>(tensor: &Tensor, what: &str) -> Result<()> {
    let refuse = |reason: String| {
        Err(Error::Unsupported { what: format!("a CPU kernel on {what}"), reason })
    };
    if !tensor.defined() {
        return refuse("the tensor is undefined".into());
    }
    if tensor.device() != Device::Cpu {
        return refuse(format!("it is on {:?}", tensor.device()));
    }
    if tensor.kind() != T::KIND {
        return refuse(format!("its dtype is {:?}, not {:?}", tensor.kind(), T::KIND));
    }
    if !tensor.is_contiguous() {
        return refuse(format!("it is not contiguous (strides {:?})", tensor.stride()));
    }
    Ok(())
}

/// The values of `tensor`, a dense CPU tensor of `T`.
///
/// # Errors
/// Another dtype, device or layout; the error names the tensor as `what`.
pub(crate) fn read<'a, T: Element>(tensor: &'a Tensor, what: &str) -> Result<&'a [T]> {
    check::<T>(tensor, what)?;
    let count = tensor.numel();
    if count == 0 {
        return Ok(&[]);
    }
    // SAFETY: the storage holds `count` values of `T`, dense, as checked, and lives as long as
    // the borrow. A clone of the tensor in other hands may write to it meanwhile: the kernels of
    // this crate hold exclusive borrows of all that they write and check them for overlap, and
    // what libtorch writes elsewhere is a race in libtorch's terms as well.
    Ok(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>().cast_const(), count) })
}

/// The values of `tensor`, a dense CPU tensor of `T`, to be changed in place. libtorch's version
/// counter does not move: no graph that saved the tensor may be run backward afterwards.
///
/// # Errors
/// As of [`read`].
pub(crate) fn write<'a, T: Element>(tensor: &'a mut Tensor, what: &str) -> Result<&'a mut [T]> {
    check::<T>(tensor, what)?;
    let count = tensor.numel();
    if count == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `read`, and the borrow of the tensor is exclusive.
    Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), count) })
}

/// Where the values of a dense tensor lie, as addresses.
pub(crate) fn range(tensor: &Tensor) -> std::ops::Range<usize> {
    let start = tensor.data_ptr() as usize;
    start..start + tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// Whether two dense tensors share memory.
pub(crate) fn overlap(left: &Tensor, right: &Tensor) -> bool {
    let (left, right) = (range(left), range(right));
    left.start < right.end && right.start < left.end
}
