//! The connections of a group, and what becomes of them when a rank ends or hangs.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::time::{Duration, Instant};

use super::gloo::GlooOptions;
use super::{Store, ffi};
use crate::error::{Error, Result};

/// After a failure, how long others may take to say that they live: they learn of it when
/// connections close.
const ROLL_CALL: Duration = Duration::from_secs(3);
const ROLL_CALL_STEP: Duration = Duration::from_millis(50);

/// The group behind [`Gloo`] and its works.
#[derive(Debug)]
pub(super) struct Connection {
    /// Null once the group failed and was closed.
    pub(super) handle: Cell<*mut c_void>,
    pub(super) options: GlooOptions,
    pub(super) store: Store,
    /// Who was missing when it failed.
    pub(super) missing: RefCell<Option<String>>,
}

impl Connection {
    /// The shim's pointer, unless the group has failed.
    pub(super) fn open(&self, op: &'static str) -> Result<*const c_void> {
        let handle = self.handle.get();
        if !handle.is_null() {
            return Ok(handle);
        }
        let missing = self.missing.borrow();
        let reason = missing.as_deref().unwrap_or("the group is closed").to_owned();
        Err(Error::Distributed { rank: self.options.rank, op, reason })
    }

    /// Closes the group after `error`, so that others learn of it, and finds out who is missing.
    pub(super) fn failed(&self, op: &'static str, error: &Error) -> Error {
        if !self.handle.get().is_null() {
            self.close();
            *self.missing.borrow_mut() = Some(self.call_the_roll());
        }
        let missing = self.missing.borrow();
        let missing = missing.as_deref().unwrap_or_default();
        let reason = format!("{missing} ({error})");
        Error::Distributed { rank: self.options.rank, op, reason }
    }

    fn close(&self) {
        let handle = self.handle.replace(std::ptr::null_mut());
        if !handle.is_null() {
            // SAFETY: the pointer is the shim's, and was just taken out of reach.
            unsafe { ffi::b4_group_drop(handle) };
        }
    }

    /// Says at the store that this rank lives, and names those that don't say so.
    fn call_the_roll(&self) -> String {
        let GlooOptions { rank, size, .. } = self.options;
        let here = |rank: usize| format!("lives/{rank}");
        let mut absent: Vec<usize> = (0..size).filter(|other| *other != rank).collect();
        let mut reached = self.store.set(&here(rank), b"1");
        let end = Instant::now() + ROLL_CALL;
        while reached.is_ok() && !absent.is_empty() && Instant::now() < end {
            std::thread::sleep(ROLL_CALL_STEP);
            absent.retain(|&other| match self.store.contains(&here(other)) {
                Ok(lives) => !lives,
                Err(error) => {
                    reached = Err(error);
                    true
                }
            });
        }
        match (reached, &absent[..]) {
            (_, []) => "all ranks live, but one of them failed or left".to_owned(),
            (Ok(()), absent) => format!("{} ended or hangs; look at its output", names(absent)),
            (Err(_), absent) => format!(
                "the process that serves the store ended (rank 0 or the launcher), and {} did not \
                 answer before",
                names(absent)
            ),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

/// `rank 1`, or `ranks 1, 2`.
fn names(ranks: &[usize]) -> String {
    let list: Vec<String> = ranks.iter().map(usize::to_string).collect();
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, list.join(", "))
}
