//! Collectives under way.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::ffi::c_void;
use std::ptr::NonNull;
use std::rc::Rc;

use tch::Tensor;

use super::connection::Connection;
use super::ffi;
use crate::error::Result;
use crate::shim;

/// A collective under way. Holds its tensors, and waits for its end when dropped.
#[derive(Debug)]
#[must_use = "the tensors are undefined until it was waited for"]
pub struct Work(Option<Pending>);

#[derive(Debug)]
struct Pending {
    handle: NonNull<c_void>,
    connection: Rc<Connection>,
    op: &'static str,
    _tensors: Vec<Tensor>,
}

impl Work {
    /// One that has come to its end: what another [`ProcessGroup`](super::ProcessGroup) returns
    /// that does not work beside its caller.
    pub fn done() -> Self {
        Self(None)
    }

    /// The shim's work `handle` of the collective `op` on `tensors`.
    pub(super) fn started(
        handle: NonNull<c_void>,
        connection: Rc<Connection>,
        op: &'static str,
        tensors: Vec<Tensor>,
    ) -> Self {
        Self(Some(Pending { handle, connection, op, _tensors: tensors }))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The rank that ended or that hangs, as far as it can be found out.
    pub fn wait(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), |pending| pending.wait())
    }

    /// Whether it has come to its end.
    ///
    /// # Errors
    /// What c10d throws.
    pub fn is_completed(&self) -> Result<bool> {
        let Some(pending) = &self.0 else { return Ok(true) };
        let mut completed = false;
        // SAFETY: the work lives; the shim writes the flag or returns a message.
        unsafe {
            let message = ffi::b4_work_is_completed(pending.handle.as_ptr(), &mut completed);
            shim::check(pending.op, message)?;
        }
        Ok(completed)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(pending) = self.0.take() {
            // What failed is known to the connection, which every later call asks.
            let _ = pending.wait();
        }
    }
}

impl Pending {
    fn wait(self) -> Result<()> {
        // SAFETY: the work lives, and the message is not used again.
        unsafe { shim::check(self.op, ffi::b4_work_wait(self.handle.as_ptr())) }
            .map_err(|error| self.connection.failed(self.op, &error))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // SAFETY: the pointer is the shim's, and nobody uses it after.
        unsafe { ffi::b4_work_drop(self.handle.as_ptr()) };
    }
}
