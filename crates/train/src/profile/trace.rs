//! Events in the format of Chrome's tracing, which Perfetto opens too.
//!
//! Source: "Trace Event Format", complete events (`"ph": "X"`), times in microseconds.

use std::collections::BTreeSet;
use std::io::{self, Write};

use bert4rs_tensor_core::profile::{Event, EventKind};
use serde_json::json;

/// Writes a trace. Times count from the first event.
///
/// # Errors
/// What `out` refuses.
pub fn write_trace(out: &mut impl Write, events: &[Event]) -> io::Result<()> {
    let start = events.iter().map(|event| event.start_ns).min().unwrap_or(0);
    let threads: BTreeSet<u64> = events.iter().map(|event| event.thread).collect();
    let main = events.iter().find(|event| event.name == "step").map(|event| event.thread);
    out.write_all(b"{\"displayTimeUnit\": \"ms\", \"traceEvents\": [")?;
    for (index, thread) in threads.iter().enumerate() {
        let name =
            if main == Some(*thread) { "training".into() } else { format!("thread {thread}") };
        let arguments = json!({ "name": name });
        let line = json!({
            "name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": arguments
        });
        write!(out, "{}\n{line}", if index == 0 { "" } else { "," })?;
    }
    for event in events {
        let line = json!({
            "name": event.name,
            "cat": category(event.kind),
            "ph": "X",
            "pid": 1,
            "tid": event.thread,
            "ts": microseconds(event.start_ns - start),
            "dur": microseconds(event.end_ns - event.start_ns),
        });
        write!(out, ",\n{line}")?;
    }
    out.write_all(b"\n]}\n")
}

fn category(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Span => "span",
        EventKind::Operation => "operation",
        EventKind::Backward => "backward",
    }
}

fn microseconds(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(events: &[Event]) -> serde_json::Value {
        let mut out = Vec::new();
        write_trace(&mut out, events).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_trace_is_json_with_threads_and_events() {
        let event = |name: &'static str, kind, thread, start_ns, end_ns| Event {
            name: name.into(),
            kind,
            thread,
            start_ns,
            end_ns,
        };
        let trace = written(&[
            event("step", EventKind::Span, 7, 5_000, 9_500),
            event("a \"b\"\\", EventKind::Operation, 7, 6_000, 6_250),
            event("make a batch", EventKind::Span, 8, 6_000, 7_000),
        ]);
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 2 + 3);
        assert_eq!(events[0]["args"]["name"], "training");
        assert_eq!(events[2]["ts"], 0.0);
        assert_eq!((&events[2]["dur"], &events[3]["ts"]), (&json!(4.5), &json!(1.0)));
        assert_eq!(events[3]["name"], "a \"b\"\\");
        assert_eq!(events[3]["cat"], "operation");
        assert_eq!(written(&[])["traceEvents"].as_array().unwrap().len(), 0);
    }
}
