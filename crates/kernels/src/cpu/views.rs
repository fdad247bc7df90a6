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

impl Element for i64 {
    const KIND: Kind = Kind::Int64;
}

impl Element for u8 {
    const KIND: Kind = Kind::Uint8;
}

impl Element for i32 {
    const KIND: Kind = Kind::Int;
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

/// The values of a CPU tensor of `T` from its first on, and its strides, which may leave gaps
/// and, for axes that are repeated, be 0. The last axis is dense.
///
/// # Errors
/// As of [`read`]; a last axis that is not dense.
pub(crate) fn read_strided<'a, T: Element, const AXES: usize>(
    tensor: &'a Tensor,
    what: &str,
) -> Result<(&'a [T], [usize; AXES])> {
    let refuse = |reason: String| {
        Err(Error::Unsupported { what: format!("a CPU kernel on {what}"), reason })
    };
    if !tensor.defined() || tensor.device() != Device::Cpu || tensor.kind() != T::KIND {
        return refuse(format!("it is not {:?} on the CPU", T::KIND));
    }
    let (size, stride) = (tensor.size(), tensor.stride());
    if size.len() != AXES || stride.last() != Some(&1) {
        return refuse(format!("its strides are {stride:?} for the shape {size:?}"));
    }
    let strides = std::array::from_fn(|axis| stride[axis] as usize);
    if tensor.numel() == 0 {
        return Ok((&[], strides));
    }
    let last: i64 = size.iter().zip(&stride).map(|(size, stride)| (size - 1) * stride).sum();
    // SAFETY: as in `read`; libtorch's strides are not negative, so that all values lie between
    // the first and the last.
    let values = unsafe {
        let first = tensor.data_ptr().cast::<T>().cast_const();
        std::slice::from_raw_parts(first, last as usize + 1)
    };
    Ok((values, strides))
}

/// A dense result that several threads write, no value by two.
pub(crate) struct SharedSlice<'a, T> {
    values: *mut T,
    count: usize,
    borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: whoever calls `part` promises that no two threads take the same values.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Shares `values` out.
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        let (count, values) = (values.len(), values.as_mut_ptr());
        Self { values, count, borrow: std::marker::PhantomData }
    }

    /// The `count` values from `first` on.
    ///
    /// # Safety
    /// While the result lives, no other part overlaps it.
    #[expect(clippy::mut_from_ref, reason = "parts are disjoint, as the caller promises")]
    pub(crate) unsafe fn part(&self, first: usize, count: usize) -> &mut [T] {
        assert!(first <= self.count && count <= self.count - first);
        // SAFETY: within the values, as just checked, and nobody else's.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(first), count) }
    }
}
