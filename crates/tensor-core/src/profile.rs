//! Where time goes: every operation of libtorch, and spans of our own around parts of a step.
//!
//! Off, a span costs one look at a flag, and operations cost nothing more. On, each operation
//! costs a few hundred nanoseconds more.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::shim;

static ON: AtomicBool = AtomicBool::new(false);
static SPANS: Mutex<Vec<Event>> = Mutex::new(Vec::new());

/// What an event times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A part of a step that this workspace names.
    Span,
    /// An operation of libtorch.
    Operation,
    /// A node of the backward graph; the operations inside are events too.
    Backward,
}

/// One call of something, on one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The operation's or span's name.
    pub name: Cow<'static, str>,
    /// What it is.
    pub kind: EventKind,
    /// libtorch's number of the thread.
    pub thread: u64,
    /// When it began, in nanoseconds of the monotonic clock.
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
    begun: Option<(&'static str, i64)>,
    _of_one_thread: PhantomData<*const ()>,
}

/// Begins a span.
pub fn span(name: &'static str) -> Span {
    let begun = ON.load(Ordering::Relaxed).then(|| (name, now_ns()));
    Span { begun, _of_one_thread: PhantomData }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some((name, start_ns)) = self.begun else { return };
        let end_ns = now_ns();
        // SAFETY: asks nothing and changes nothing.
        let thread = unsafe { shim::b4_profiler_thread() };
        let event = Event { name: name.into(), kind: EventKind::Span, thread, start_ns, end_ns };
        if ON.load(Ordering::Relaxed) {
            spans().push(event);
        }
    }
}

/// Begins a profile of the whole process.
///
/// # Errors
/// One is being taken already.
pub fn start() -> Result<()> {
    // SAFETY: no pointers go in, and the message is ours.
    unsafe { shim::check("profile", shim::b4_profiler_start()) }?;
    spans().clear();
    ON.store(true, Ordering::Relaxed);
    Ok(())
}

/// Ends the profile and returns what it saw, ordered by time. Spans that have not ended are left
/// out.
///
/// # Errors
/// None is being taken.
pub fn stop() -> Result<Vec<Event>> {
    let mut raw: *mut shim::RawEvent = std::ptr::null_mut();
    let (mut count, mut names) = (0, std::ptr::null_mut());
    // SAFETY: each pointer takes one value; the message is ours.
    let names = unsafe {
        let message = shim::b4_profiler_stop(&mut raw, &mut count, &mut names);
        shim::check("profile", message)?;
        shim::take_text(names)
    };
    ON.store(false, Ordering::Relaxed);
    let names: Vec<Cow<'static, str>> =
        names.unwrap_or_default().lines().map(|name| Cow::Owned(name.to_owned())).collect();
    // SAFETY: without an error, `raw` points to `count` events from malloc, of which we are the
    // owner. They are plain numbers, and are freed after the last look.
    let mut events: Vec<Event> = unsafe {
        let found = std::slice::from_raw_parts(raw, count);
        let events = found.iter().map(|event| to_event(event, &names)).collect();
        libc::free(raw.cast());
        events
    };
    events.append(&mut spans());
    events.sort_by_key(|event| (event.start_ns, -event.end_ns));
    Ok(events)
}

fn to_event(raw: &shim::RawEvent, names: &[Cow<'static, str>]) -> Event {
    let kind = if raw.kind == 0 { EventKind::Operation } else { EventKind::Backward };
    let name = names.get(raw.name as usize).cloned().unwrap_or_default();
    Event { name, kind, thread: raw.thread, start_ns: raw.start_ns, end_ns: raw.end_ns }
}

fn now_ns() -> i64 {
    // SAFETY: asks nothing and changes nothing.
    unsafe { shim::b4_profiler_now_ns() }
}

fn spans() -> MutexGuard<'static, Vec<Event>> {
    SPANS.lock().unwrap_or_else(PoisonError::into_inner)
}
