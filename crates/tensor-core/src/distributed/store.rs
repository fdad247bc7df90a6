//! Where the processes of a run meet: torch's `TCPStore`, keys and values that one process serves.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::ffi::{CString, c_void};
use std::ptr::NonNull;
use std::time::Duration;

use super::ffi;
use crate::error::{Error, Result};
use crate::shim;

/// A connection to the store, under a prefix of keys.
#[derive(Debug)]
pub struct Store {
    handle: NonNull<c_void>,
    /// For messages.
    address: String,
    port: u16,
    timeout: Duration,
}

impl Store {
    /// Serves a store on `port` of all of this machine's interfaces, and connects to it. Port 0
    /// lets the system choose one. Whoever reaches the port can read and write: it belongs in a
    /// private network.
    ///
    /// # Errors
    /// A port that is taken.
    pub fn serve(port: u16, timeout: Duration) -> Result<Self> {
        Self::open("localhost", port, true, timeout)
    }

    /// Connects to the store that `host` serves, and tries again until `timeout` is over. Later
    /// reads wait as long for a key.
    ///
    /// # Errors
    /// No store there.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self> {
        Self::open(host, port, false, timeout)
    }

    fn open(host: &str, mut port: u16, serves: bool, timeout: Duration) -> Result<Self> {
        let op = || format!("store at {host}:{port}");
        let name = text(host, &op())?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the string lives; the shim writes port and pointer, or returns a message.
        let message = unsafe {
            ffi::b4_store_new(name.as_ptr(), &mut port, serves, millis(timeout), &mut handle)
        };
        let address = format!("{host}:{port}");
        Ok(Self {
            handle: taken(&format!("store at {address}"), message, handle)?,
            address,
            port,
            timeout,
        })
    }

    /// The same store, with `prefix` before each key.
    ///
    /// # Errors
    /// What c10d throws.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self> {
        let prefix = text(prefix, &self.op())?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: handle and string live; the shim writes the pointer or returns a message.
        let message = unsafe { ffi::b4_store_prefix(self.raw(), prefix.as_ptr(), &mut handle) };
        let handle = taken(&self.op(), message, handle)?;
        Ok(Self { handle, address: self.address.clone(), port: self.port, timeout: self.timeout })
    }

    /// The port that it is served on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Writes a value.
    ///
    /// # Errors
    /// The process that serves the store is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = text(key, &self.op())?;
        // SAFETY: handle, string and bytes live during the call.
        let message =
            unsafe { ffi::b4_store_set(self.raw(), key.as_ptr(), value.as_ptr(), value.len()) };
        self.check(message)
    }

    /// Waits until somebody has written `key`, and reads it.
    ///
    /// # Errors
    /// Nobody wrote it in time, or the process that serves the store is gone.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        let name = text(key, &self.op())?;
        let (mut bytes, mut count) = (std::ptr::null_mut(), 0);
        let timeout = millis(self.timeout);
        // SAFETY: handle and string live; the shim writes the bytes or returns a message.
        let message = unsafe {
            ffi::b4_store_get(self.raw(), name.as_ptr(), timeout, &mut bytes, &mut count)
        };
        self.check(message)?;
        // SAFETY: on success the shim gave `count` bytes from malloc, which are ours to free.
        unsafe {
            let value = std::slice::from_raw_parts(bytes, count).to_vec();
            libc::free(bytes.cast());
            Ok(value)
        }
    }

    /// Whether somebody has written `key`. Does not wait.
    ///
    /// # Errors
    /// The process that serves the store is gone.
    pub fn contains(&self, key: &str) -> Result<bool> {
        let key = text(key, &self.op())?;
        let mut found = false;
        // SAFETY: handle and string live; the shim writes the flag or returns a message.
        let message = unsafe { ffi::b4_store_check(self.raw(), key.as_ptr(), &mut found) };
        self.check(message).map(|()| found)
    }

    /// Adds `amount` to a counter, which starts at 0, and returns the sum.
    ///
    /// # Errors
    /// The process that serves the store is gone.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64> {
        let key = text(key, &self.op())?;
        let mut sum = 0;
        // SAFETY: handle and string live; the shim writes the sum or returns a message.
        let message = unsafe { ffi::b4_store_add(self.raw(), key.as_ptr(), amount, &mut sum) };
        self.check(message).map(|()| sum)
    }

    /// The pointer that the shim made.
    pub(super) fn raw(&self) -> *const c_void {
        self.handle.as_ptr()
    }

    fn op(&self) -> String {
        format!("store at {}", self.address)
    }

    fn check(&self, message: *mut std::ffi::c_char) -> Result<()> {
        // SAFETY: the message is the shim's, and not used again.
        unsafe { shim::check(&self.op(), message) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the pointer is the shim's, and nobody uses it after.
        unsafe { ffi::b4_store_drop(self.handle.as_ptr()) };
    }
}

/// `text` for C.
pub(super) fn text(text: &str, op: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Torch {
        op: op.to_owned(),
        message: format!("{text:?} holds a zero byte"),
    })
}

/// The pointer that the shim wrote, or its message as an error.
pub(super) fn taken(
    op: &str,
    message: *mut std::ffi::c_char,
    handle: *mut c_void,
) -> Result<NonNull<c_void>> {
    // SAFETY: the message is the shim's, and not used again.
    unsafe { shim::check(op, message)? };
    NonNull::new(handle)
        .ok_or_else(|| Error::Torch { op: op.to_owned(), message: "nothing was made".into() })
}

/// Whole milliseconds, at least one.
pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1)
}
