//! `bert4rs cache`.

use crate::support::{Outcome, Sandbox, train_args};

#[test]
fn standard_input_is_kept_as_long_as_its_run() {
    let sandbox = Sandbox::new();
    let text = std::fs::File::open(sandbox.corpus()).unwrap();
    let args = train_args(&["--max-steps", "1", "--corpus", "-"]);
    let outcome = Outcome::new(sandbox.command(&args).stdin(text).output().unwrap());
    outcome.succeeds();
    let kept = || {
        let names = sandbox.list("cache/bert4rs/standard-input").into_iter();
        names.filter(|name| !name.contains('.')).count()
    };
    sandbox.write("cache/bert4rs/standard-input/4294967295.partial", "cut off");
    let list = sandbox.run(&["cache"]).succeeds().stdout;
    let line = list.lines().find(|line| line.contains("standard input of")).unwrap();
    assert!(line.contains("/run"), "{list}");
    let trim = || sandbox.run(&["cache", "trim"]).succeeds().stdout;
    assert!(trim().contains("4294967295.partial"));
    assert_eq!(kept(), 1);
    std::fs::remove_dir_all(sandbox.path("run")).unwrap();
    trim();
    assert_eq!(sandbox.list("cache/bert4rs/standard-input"), [""; 0]);
}

#[test]
fn what_runs_use_is_kept_and_the_rest_is_trimmed() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let datasets = || {
        let names = sandbox.list("cache/bert4rs/tokens").into_iter();
        names.filter(|name| !name.contains('.')).count()
    };
    sandbox.train(&["--max-steps", "1", "--out", "kept"]).succeeds();
    sandbox.train(&["--max-steps", "1", "--out", "gone", "--model", "gpt"]).succeeds();
    let list = sandbox.run(&["cache"]).succeeds().stdout;
    assert!(list.contains("/kept") && list.contains("/gone"), "{list}");

    std::fs::remove_dir_all(sandbox.path("gone")).unwrap();
    let trim = |more: &[&str]| sandbox.run(&[&["cache", "trim"], more].concat()).succeeds().stdout;
    assert!(trim(&["--older-than", "1"]).ends_with("0.0 KiB freed\n"), "both are fresh");
    assert_eq!(datasets(), 2);
    assert!(trim(&[]).contains("removed "));
    assert_eq!(datasets(), 1);
    // What was kept is still whole, and what was not is made again.
    sandbox.train(&["--max-steps", "1", "--out", "kept", "--overwrite"]).succeeds();
    sandbox.train(&["--max-steps", "1", "--out", "again", "--model", "gpt"]).succeeds();
    assert_eq!(datasets(), 2);
}
