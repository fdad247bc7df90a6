//! A CUDA stream beside the one that work is launched on, for copies that run while it computes.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::ffi::c_void;
use std::ptr::NonNull;

use tch::{Device, Tensor};

use crate::device::{Cuda, cuda};
use crate::error::{Error, Result};
use crate::shim;

const OP: &str = "stream for copies";

/// Such a stream of one CUDA device. Use it on one thread at a time.
#[derive(Debug)]
pub struct CopyStream(NonNull<c_void>);

impl CopyStream {
    /// One for `device`.
    ///
    /// # Errors
    /// A device without CUDA.
    pub fn new(device: Device) -> Result<Self> {
        let refuse = |reason| Err(Error::Unsupported { what: OP.into(), reason });
        let Device::Cuda(index) = device else {
            return refuse(format!("{device:?} has no streams"));
        };
        if let Cuda::None(reason) = cuda() {
            return refuse(reason.clone());
        }
        let mut copy_stream = std::ptr::null_mut();
        // SAFETY: the shim writes the pointer, or nothing and returns a message.
        unsafe { shim::check(OP, shim::b4_aside_new(index as i32, &mut copy_stream))? };
        NonNull::new(copy_stream)
            .map(Self)
            .ok_or_else(|| Error::Torch { op: OP.into(), message: "no stream".into() })
    }

    /// What `body` returns. What it launches runs beside earlier work of this thread on the
    /// device; later work waits for it. `tensors` are those of the result, made by `body`.
    ///
    /// `body` must read and write no memory that earlier work writes.
    ///
    /// # Errors
    /// Those of `body`, and what libtorch throws.
    pub fn run<T, E: From<Error>>(
        &self,
        body: impl FnOnce() -> std::result::Result<T, E>,
        tensors: impl Fn(&T) -> Vec<&Tensor>,
    ) -> std::result::Result<T, E> {
        // SAFETY: the pointer is the shim's, and lives.
        unsafe { shim::check(OP, shim::b4_aside_enter(self.0.as_ptr()))? };
        let beside = Beside(self);
        let outcome = body();
        beside.leave()?;
        let result = outcome?;
        for tensor in tensors(&result) {
            let tensor = shim::borrow_raw(tensor);
            // SAFETY: as above, and the tensor is borrowed.
            unsafe { shim::check(OP, shim::b4_aside_keep(self.0.as_ptr(), tensor))? };
        }
        Ok(result)
    }
}

/// The time in which a thread launches on the stream beside; also a panic ends it.
struct Beside<'a>(&'a CopyStream);

impl Beside<'_> {
    fn leave(self) -> Result<()> {
        let stream = self.0;
        std::mem::forget(self);
        // SAFETY: the pointer is the shim's, and lives.
        unsafe { shim::check(OP, shim::b4_aside_leave(stream.0.as_ptr())) }
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `leave`; there is nobody to tell of an error.
        let _ = unsafe { shim::check(OP, shim::b4_aside_leave(self.0.0.as_ptr())) };
    }
}

impl Drop for CopyStream {
    fn drop(&mut self) {
        // SAFETY: the pointer is the shim's, and nobody uses it after.
        unsafe { shim::b4_aside_drop(self.0.as_ptr()) };
    }
}
