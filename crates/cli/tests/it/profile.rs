//! `bert4rs profile`.

use crate::support::Sandbox;

const TINY: [&str; 18] = [
    "--batch-size",
    "2",
    "--seq-len",
    "32",
    "--hidden-size",
    "32",
    "--num-layers",
    "1",
    "--num-heads",
    "2",
    "--vocab-size",
    "400",
    "--corpus",
    "corpus.txt",
    "--out",
    "run",
    "--device",
    "cpu",
];

#[test]
fn a_profile_shows_operations_and_parts_of_a_step() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let args = [&["profile", "--warmup-steps", "1", "--steps", "2"], &TINY[..]].concat();
    let shown = sandbox.run(&args).succeeds().stdout;
    for part in ["data wait", "aten::mm", "self ms", "run"] {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
    assert_eq!(
        sandbox.list("run"),
        [".bert4rs-run", "config.toml", "metrics.jsonl", "profile.txt", "run.json", "trace.json"]
    );
    let text = std::fs::read_to_string(sandbox.path("run/trace.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let count = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    assert_eq!(count("step"), 2);
    assert_eq!(count("data wait"), 2);
    assert!(count("aten::addmm") + count("aten::linear") > 0);
    let is_node = |event: &&serde_json::Value| {
        event["name"].as_str().is_some_and(|name| name.ends_with("Backward0"))
    };
    let nodes = events.iter().filter(is_node).count();
    assert!(nodes > 4, "{nodes}");
}

#[test]
fn a_profile_of_nothing_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let refuse = |more: &[&str], parts: &[&str]| {
        sandbox.run(&[&["profile"], &TINY[..], more].concat()).refuses(parts);
    };
    refuse(&["--steps", "0"], &["--steps"]);
    refuse(&["--max-steps", "9"], &["--max-steps", "--warmup-steps"]);
    assert_eq!(sandbox.list("run"), [""; 0]);
}
