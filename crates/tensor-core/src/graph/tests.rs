//! What is called in which order, whatever happens in between, over functions that only take notes.

use std::cell::{Cell, RefCell};

use super::*;
use crate::{Device, Kind};

thread_local! {
    static CALLS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    /// The function that fails.
    static FAILING: Cell<&'static str> = const { Cell::new("") };
}

fn note(name: &'static str) -> *mut c_char {
    CALLS.with_borrow_mut(|calls| calls.push(name));
    if FAILING.get() == name {
        shim::give_text(&format!("{name} failed"))
    } else {
        std::ptr::null_mut()
    }
}

unsafe extern "C" fn new(_: c_int, raw: *mut *mut c_void) -> *mut c_char {
    // SAFETY: the caller's own pointer.
    unsafe { *raw = std::ptr::null_mut() };
    note("new")
}

macro_rules! notes {
    ($($name:ident)*) => {
        $(unsafe extern "C" fn $name(_: *mut c_void) -> *mut c_char { note(stringify!($name)) })*
    };
}

notes!(begin end abandon leave replay);

unsafe extern "C" fn drop_it(_: *mut c_void) {
    let _ = note("drop");
}

static FAKE: Functions = Functions { new, begin, end, abandon, leave, replay, drop: drop_it };

/// What is called while `body` is recorded with `failing`, and how that ended.
fn calls(
    failing: &'static str,
    body: impl FnOnce() -> Result<u32>,
) -> (Vec<&'static str>, Result<u32>) {
    FAILING.set(failing);
    CALLS.take();
    let graph = Graph::record_by(&FAKE, 0, Vec::new(), || {
        note("body");
        body()
    });
    let outcome = graph.and_then(|graph| graph.replay().map(|()| *graph.outputs()));
    (CALLS.take(), outcome)
}

#[test]
fn a_recording_begins_ends_leaves_and_replays() {
    let (calls, outcome) = calls("", || Ok(7));
    assert_eq!(calls, ["new", "begin", "body", "end", "leave", "replay", "drop"]);
    assert_eq!(outcome.unwrap(), 7);
}

#[test]
fn a_body_that_fails_or_panics_leaves_nothing_open() {
    let closed = ["new", "begin", "body", "abandon", "leave", "drop"];
    let refuse = || Err(Error::Torch { op: "a step".into(), message: "looks at a value".into() });
    let (found, outcome) = calls("", refuse);
    assert_eq!(found, closed);
    assert!(outcome.unwrap_err().to_string().contains("looks at a value"));
    let (found, outcome) = calls("", || panic!("copied to the host"));
    assert_eq!(found, closed);
    let text = outcome.unwrap_err().to_string();
    assert!(text.contains("CUDA graph") && text.contains("copied to the host"), "{text}");
}

#[test]
fn what_cuda_refuses_leaves_nothing_open() {
    for (failing, expected) in [
        ("new", &["new"][..]),
        ("begin", &["new", "begin", "abandon", "leave", "drop"]),
        ("end", &["new", "begin", "body", "end", "abandon", "leave", "drop"]),
    ] {
        let (found, outcome) = calls(failing, || Ok(7));
        assert_eq!(found, expected);
        assert!(outcome.unwrap_err().to_string().contains(&format!("{failing} failed")));
    }
    // Closing what failed may fail too: the first failure is told, and all else is still done.
    let (found, outcome) = calls("abandon", || panic!("first"));
    assert_eq!(found, ["new", "begin", "body", "abandon", "leave", "drop"]);
    assert!(outcome.unwrap_err().to_string().contains("first"));
}

#[test]
fn a_graph_owns_what_it_touches_and_sees_that_it_moved() {
    FAILING.set("");
    let options = (Kind::Float, Device::Cpu);
    let [mut weight, dropped] = [2.0, 3.0].map(|value| Tensor::full([4], value, options));
    let touched = [&weight, &dropped].map(Touched::new).into();
    let graph = Graph::record_by(&FAKE, 0, touched, || Ok(())).unwrap();
    let place = graph.touched[1].place as *const f32;
    drop(dropped);
    // SAFETY: the point of the test: the graph still owns it.
    assert_eq!(unsafe { *place }, 3.0);
    graph.replay().unwrap();
    weight.set_data(&Tensor::ones([4], options));
    let error = graph.replay().unwrap_err().to_string();
    assert!(error.contains("lies elsewhere"), "{error}");
    let place = graph.touched[0].place as *const f32;
    // SAFETY: as above.
    assert_eq!(unsafe { *place }, 2.0, "the memory of then is held");
}
