//! `bert4rs cache`.

use crate::support::Sandbox;

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
