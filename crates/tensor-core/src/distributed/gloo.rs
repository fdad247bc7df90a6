//! Collectives over Gloo: torch's `ProcessGroupGloo`, for tensors on the CPU.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char, c_void};
use std::ptr::null;
use std::rc::Rc;
use std::time::Duration;

use tch::Tensor;

use super::connection::Connection;
use super::group::{check_flat, check_pair};
use super::store::{millis, taken, text};
use super::{ProcessGroup, ReduceOp, Store, Work, ffi};
use crate::error::{Error, Result};
use crate::shim;

/// How a group is made.
#[derive(Debug, Clone)]
pub struct GlooOptions {
    /// This process's number, from 0.
    pub rank: usize,
    /// How many processes there are.
    pub size: usize,
    /// Address of the network interface to talk over, of this machine. Without it, the one that
    /// the machine's name or `GLOO_SOCKET_IFNAME` leads to.
    pub address: Option<String>,
    /// The longest that a collective waits for others.
    pub timeout: Duration,
    /// Compare each collective's name, shapes and dtypes over ranks first. Slow: to find faults.
    pub checks: bool,
}

/// A group of processes that talk by Gloo.
#[derive(Debug)]
pub struct Gloo(Rc<Connection>);

impl Gloo {
    /// Meets the other ranks at `store` and connects to each of them.
    ///
    /// # Errors
    /// A rank that does not come in time, or an address that is not of this machine.
    pub fn new(store: &Store, options: GlooOptions) -> Result<Self> {
        let op = "process group";
        let store = store.with_prefix("gloo")?;
        let address = options.address.as_deref().map(|address| text(address, op)).transpose()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: store and string live; the shim writes the pointer or returns a message.
        let message = unsafe {
            ffi::b4_group_new(
                store.raw(),
                options.rank as i32,
                options.size as i32,
                address.as_ref().map_or(null(), |address: &CString| address.as_ptr()),
                millis(options.timeout),
                options.checks,
                &mut handle,
            )
        };
        let handle = Cell::new(taken(op, message, handle)?.as_ptr());
        Ok(Self(Rc::new(Connection { handle, options, store, missing: RefCell::default() })))
    }

    /// Starts a collective; `call` is the shim's.
    fn start(
        &self,
        op: &'static str,
        tensors: &[&Tensor],
        call: impl FnOnce(*const c_void, *mut *mut c_void) -> *mut c_char,
    ) -> Result<Work> {
        let group = self.0.open(op)?;
        let mut work = std::ptr::null_mut();
        let message = call(group, &mut work);
        let handle = taken(op, message, work).map_err(|error| self.0.failed(op, &error))?;
        let tensors = tensors.iter().map(|tensor| tensor.shallow_clone()).collect();
        let connection = Rc::clone(&self.0);
        Ok(Work::started(handle, connection, op, tensors))
    }
}

impl ProcessGroup for Gloo {
    fn rank(&self) -> usize {
        self.0.options.rank
    }

    fn size(&self) -> usize {
        self.0.options.size
    }

    fn all_reduce(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<Work> {
        check_flat("all_reduce", "tensor", tensor, None)?;
        let code = match op {
            ReduceOp::Sum => 0,
            ReduceOp::Max => 1,
            ReduceOp::Min => 2,
        };
        let raw = shim::borrow_raw(tensor);
        // SAFETY: group and tensor live during the call, and the work keeps the tensor.
        self.start("all_reduce", &[tensor], |group, work| unsafe {
            ffi::b4_all_reduce(group, raw, code, work)
        })
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<Work> {
        check_flat("broadcast", "tensor", tensor, None)?;
        let raw = shim::borrow_raw(tensor);
        // SAFETY: as in `all_reduce`.
        self.start("broadcast", &[tensor], |group, work| unsafe {
            ffi::b4_broadcast(group, raw, root as i32, work)
        })
    }

    fn all_gather(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        check_pair("all_gather", output, input, self.size() as i64)?;
        let (out, raw) = (shim::borrow_raw(output), shim::borrow_raw(input));
        // SAFETY: as in `all_reduce`.
        self.start("all_gather", &[output, input], |group, work| unsafe {
            ffi::b4_all_gather(group, out, raw, work)
        })
    }

    fn all_to_all(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        check_pair("all_to_all", output, input, 1)?;
        if input.size()[0] % self.size() as i64 != 0 {
            let expected = format!("[{} n]", self.size());
            let (op, tensor, found) = ("all_to_all", "input", input.size());
            return Err(Error::Shape { op, tensor, found, expected });
        }
        let (out, raw) = (shim::borrow_raw(output), shim::borrow_raw(input));
        // SAFETY: as in `all_reduce`.
        self.start("all_to_all", &[output, input], |group, work| unsafe {
            ffi::b4_all_to_all(group, out, raw, work)
        })
    }

    fn barrier(&self) -> Result<()> {
        let op = "barrier";
        let group = self.0.open(op)?;
        let timeout = millis(self.0.options.timeout);
        // SAFETY: the group lives, and the message is not used again.
        unsafe { shim::check(op, ffi::b4_monitored_barrier(group, timeout)) }
            .map_err(|error| self.0.failed(op, &error))
    }
}
