//! Runs that meet each other, and runs that are cut off.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{Outcome, Sandbox, train_args};

#[test]
fn of_two_runs_in_one_folder_one_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for more in [&["--seed", "1"][..], &["--overwrite"]] {
        let spawn = || {
            let mut command = sandbox.command(&train_args(more));
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let both = [spawn(), spawn()];
        let both = both.map(|child| Outcome::new(child.wait_with_output().unwrap()));
        let [first, second] = both;
        let (won, lost) = if first.code == Some(0) { (first, second) } else { (second, first) };
        won.succeeds();
        lost.refuses(&["run", "another process"]);
        let metrics = std::fs::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
        assert_eq!(metrics.lines().count(), 6, "the steps of one run");
    }
}

#[test]
fn killed_at_any_time_a_whole_run_is_left() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.train(&[]).succeeds();
    for tenths in [1, 3, 5, 7, 9] {
        let mut command = sandbox.command(&train_args(&["--overwrite"]));
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100 * tenths));
        child.kill().unwrap();
        child.wait().unwrap();
        for name in ["config.toml", "model.safetensors", "tokenizer.json", "metrics.jsonl"] {
            assert!(sandbox.path("run").join(name).exists(), "{name} after {tenths} tenths");
        }
    }
    sandbox.train(&["--overwrite"]).succeeds();
    assert!(!sandbox.path("run.new").exists());
}
