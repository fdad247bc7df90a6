//! libtorch's CUDA streams.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::ffi::c_void;

use crate::error::{Error, Result};
use crate::shim;

/// The driver's handle (`CUstream`) of the stream that libtorch launches on, for this thread and
/// the CUDA device of this index. It is libtorch's: use it, never destroy it.
///
/// # Errors
/// The CUDA backend is not loaded, or has no such device.
pub fn current(index: usize) -> Result<*mut c_void> {
    let op = "current CUDA stream";
    let index = i32::try_from(index)
        .map_err(|_| Error::Torch { op: op.into(), message: format!("no device {index}") })?;
    let mut stream = std::ptr::null_mut();
    // SAFETY: the shim writes the pointer, or nothing and returns a message.
    unsafe { shim::check(op, shim::b4_current_stream(index, &mut stream))? };
    Ok(stream)
}
