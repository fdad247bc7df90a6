//! Profiles see what ran, nested as it ran. One test, as a profile is of the whole process.

use std::path::Path;

use bert4rs_tensor_core::profile::{self, Event, EventKind};
use bert4rs_tensor_core::{Device, Kind, Tensor};

fn named<'a>(events: &'a [Event], name: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.name == name).collect()
}

/// The trace is JSON in Chrome's format, with complete events of these names.
fn assert_trace_has(path: &Path, names: &[&str]) {
    let text = std::fs::read_to_string(path).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for name in names {
        let is_there = |event: &serde_json::Value| event["ph"] == "X" && event["name"] == *name;
        assert!(events.iter().any(is_there), "{name}");
    }
}

#[test]
fn a_profile_sees_operations_backward_and_spans() {
    let x = Tensor::randn([64, 64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    drop(profile::span("before"));
    let _ = x.matmul(&x);

    profile::start(Device::Cpu).unwrap();
    assert!(profile::start(Device::Cpu).is_err(), "one at a time");
    {
        let _outer = profile::span("step");
        let loss = {
            let _inner = profile::span("forward");
            x.matmul(&x).sum(Kind::Float)
        };
        let _inner = profile::span("backward");
        let _ = Tensor::run_backward(&[loss], &[&x], false, false);
    }
    std::thread::spawn(|| drop(profile::span("worker"))).join().unwrap();
    let unended = profile::span("unended");
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.json");
    let events = profile::stop(Some(&trace)).unwrap();
    assert!(profile::stop(None).is_err(), "it has ended");

    // A span of a profile that is over is no part of the next, which ends with it or without.
    profile::start(Device::Cpu).unwrap();
    drop(unended);
    let nowhere = folder.path().join("none/trace.json");
    assert!(profile::stop(Some(&nowhere)).unwrap_err().to_string().contains("none/trace.json"));
    assert!(profile::stop(None).is_err(), "it has ended all the same");
    assert_trace_has(&trace, &["step", "forward", "backward", "worker", "aten::mm"]);

    // Other tests of this process may run operations meanwhile, on threads of their own.
    let step = named(&events, "step")[0];
    let mine: Vec<Event> =
        events.iter().filter(|event| event.thread == step.thread).cloned().collect();
    let within = |inner: &Event, outer: &Event| {
        outer.start_ns <= inner.start_ns && inner.end_ns <= outer.end_ns
    };
    let (forward, backward) = (named(&mine, "forward")[0], named(&mine, "backward")[0]);
    assert!(within(forward, step) && within(backward, step));
    let products = named(&mine, "aten::mm");
    assert_eq!(products.len(), 3, "one forward, two backward");
    assert!(within(products[0], forward) && within(products[2], backward));
    assert!(products.iter().all(|event| event.kind == EventKind::Operation));
    let nodes: Vec<_> = mine.iter().filter(|event| event.kind == EventKind::Backward).collect();
    assert!(nodes.iter().any(|event| event.name.contains("MmBackward")), "{nodes:?}");
    assert_ne!(named(&events, "worker")[0].thread, step.thread);
    assert!(named(&events, "before").is_empty() && named(&events, "unended").is_empty());
    assert!(events.windows(2).all(|pair| pair[0].start_ns <= pair[1].start_ns));
}
