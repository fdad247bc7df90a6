//! Where time goes: libtorch's profiler, Kineto, which sees its operations on every thread and a
//! GPU's kernels, and spans of our own around parts of a step.
//!
//! Off, a span costs one look at a flag, and operations cost nothing more. On, each operation
//! costs a few hundred nanoseconds more.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_void};
use std::fs::File;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::{Device, shim};

/// The number of the profile that is being taken, 0 if none is.
static CURRENT: AtomicU64 = AtomicU64::new(0);
/// How many profiles were begun. Locked while one begins or ends.
static BEGUN: Mutex<u64> = Mutex::new(0);

/// What an event times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A part of a step that this workspace names.
    Span,
    /// An operation of libtorch.
    Operation,
    /// A node of the backward graph; the operations inside are events too.
    Backward,
    /// A kernel or copy on a GPU.
    Kernel,
}

/// One call of something, on one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The name of the operation, span or kernel.
    pub name: Cow<'static, str>,
    /// What it is.
    pub kind: EventKind,
    /// libtorch's number of the thread; of a kernel, the number of its stream.
    pub thread: u64,
    /// When it began, in nanoseconds since 1970.
    pub start_ns: i64,
    /// When it ended.
    pub end_ns: i64,
}

/// Times the part of the program until it is dropped, if a profile is being taken.
///
/// It belongs to the thread that made it.
#[derive(Debug)]
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    /// The profile's number and libtorch's own span.
    begun: Option<(u64, *mut c_void)>,
    _of_one_thread: PhantomData<*const ()>,
}

/// Begins a span. Kineto writes the name into its trace as it is, so it may have no quotes.
pub fn span(name: &'static str) -> Span {
    let mut begun = None;
    let profile = CURRENT.load(Ordering::Relaxed);
    if profile != 0 {
        let mut span = null_mut();
        // SAFETY: the name is copied from as many bytes; `span` takes one pointer.
        let result = unsafe {
            let (text, length) = (name.as_ptr().cast(), name.len());
            shim::check("profile", shim::b4_profiler_span(text, length, &mut span))
        };
        // One that can't be made is left out of the profile.
        begun = result.is_ok().then_some((profile, span));
    }
    Span { begun, _of_one_thread: PhantomData }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some((profile, span)) = self.begun else { return };
        // Kineto's record of a span is gone with its profile. One that ends later is leaked, as
        // ending it under the next profile would write to that record.
        if CURRENT.load(Ordering::Relaxed) == profile {
            // SAFETY: made by `b4_profiler_span` on this thread, as a `Span` can't leave it, and
            // ended only here.
            unsafe { shim::b4_profiler_end(span) };
        }
    }
}

/// Begins a profile of the whole process, with the kernels of `device` if it is a GPU.
///
/// # Errors
/// One is being taken already.
pub fn start(device: Device) -> Result<()> {
    let mut begun = begun();
    if CURRENT.load(Ordering::Relaxed) != 0 {
        return Err(failed("one is being taken already"));
    }
    // SAFETY: no pointers go in, and the message is ours.
    unsafe { shim::check("profile", shim::b4_profiler_start(device.is_cuda())) }?;
    *begun += 1;
    CURRENT.store(*begun, Ordering::Relaxed);
    Ok(())
}

/// Ends the profile and returns what it saw, ordered by time. Spans that have not ended are left
/// out.
///
/// With `trace`, Kineto writes all that it knows to that file, for `ui.perfetto.dev` and
/// `chrome://tracing`.
///
/// # Errors
/// None is being taken, or the trace can't be written.
pub fn stop(trace: Option<&Path>) -> Result<Vec<Event>> {
    let _begun = begun();
    if CURRENT.swap(0, Ordering::Relaxed) == 0 {
        return Err(failed("none is being taken"));
    }
    let path = trace.map(writable).transpose();
    let events = take_events(path.as_ref().ok().and_then(Option::as_deref))?;
    path.map(|_| events)
}

/// Makes a file, as Kineto only logs what it can't write; the path as C takes it.
fn writable(path: &Path) -> Result<CString> {
    File::create(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| failed("a NUL in the trace's path"))
}

fn take_events(trace: Option<&CStr>) -> Result<Vec<Event>> {
    let mut raw: *mut shim::RawEvent = null_mut();
    let (mut count, mut names) = (0, null_mut());
    // SAFETY: the path is null or NUL-terminated; each other pointer takes one value; the message
    // is ours.
    let names = unsafe {
        let path = trace.map_or(null(), CStr::as_ptr);
        shim::check("profile", shim::b4_profiler_stop(path, &mut raw, &mut count, &mut names))?;
        shim::take_text(names)
    };
    let names: Vec<Cow<'static, str>> =
        names.unwrap_or_default().lines().map(|name| Cow::Owned(name.to_owned())).collect();
    // SAFETY: without an error, `raw` points to `count` events from malloc, of which we are the
    // owner. They are plain numbers, and are freed after the last look.
    let mut events: Vec<Event> = unsafe {
        let found = std::slice::from_raw_parts(raw, count);
        let events = found.iter().filter_map(|event| to_event(event, &names)).collect();
        libc::free(raw.cast());
        events
    };
    events.sort_by_key(|event| (event.start_ns, -event.end_ns));
    Ok(events)
}

fn to_event(raw: &shim::RawEvent, names: &[Cow<'static, str>]) -> Option<Event> {
    use EventKind::{Backward, Kernel, Operation, Span};
    // As `Kind` in csrc/profiler.cpp.
    let kind = *[Span, Operation, Backward, Kernel].get(raw.kind as usize)?;
    let name = names.get(raw.name as usize)?.clone();
    Some(Event { name, kind, thread: raw.thread, start_ns: raw.start_ns, end_ns: raw.end_ns })
}

fn begun() -> MutexGuard<'static, u64> {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(message: &str) -> Error {
    Error::Torch { op: "profile".into(), message: message.into() }
}
