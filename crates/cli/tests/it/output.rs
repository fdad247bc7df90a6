//! Standard output that can't be written to.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::support::{Outcome, Sandbox, train_args};
use crate::text::{write_bert, write_gpt};

/// Runs with standard output on a disk that is full.
fn into_full_disk(command: &mut Command) -> Outcome {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let child = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    Outcome::new(child.wait_with_output().unwrap())
}

/// Runs with standard output into a pipe that nobody reads.
fn into_closed_pipe(command: &mut Command) -> Outcome {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    Outcome::new(child.wait_with_output().unwrap())
}

#[test]
fn what_cannot_be_printed_is_an_error_unless_nobody_reads_it() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for args in [&["presets"][..], &["presets", "show", "baseline"], &["doctor", "--memory"]] {
        into_full_disk(&mut sandbox.command(args)).fails(&["standard output", "No space left"]);
        let quiet = into_closed_pipe(&mut sandbox.command(args)).succeeds();
        assert_eq!(quiet.stderr, "", "{args:?}");
    }
}

#[test]
fn the_commands_of_models_say_so_too() {
    let sandbox = Sandbox::new();
    write_bert(&sandbox);
    write_gpt(&sandbox);
    for args in [
        &["embed", "--model", "bert", "--text", "a crate"][..],
        &["fill-mask", "--model", "bert", "--text", "a [MASK]"],
        &["generate", "--model", "gpt", "--prompt", "a", "--max-new-tokens", "3"],
    ] {
        into_full_disk(&mut sandbox.command(args)).fails(&["standard output", "No space left"]);
        into_closed_pipe(&mut sandbox.command(args)).succeeds();
    }
}

#[test]
fn training_goes_on_whatever_its_lines_meet() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let train = |out| sandbox.command(&train_args(&["--out", out]));
    into_full_disk(&mut train("full")).fails(&["standard output", "No space left"]);
    let quiet = into_closed_pipe(&mut train("closed")).succeeds();
    assert_eq!(quiet.stderr, "");
    for run in ["full", "closed"] {
        assert!(sandbox.path(run).join("summary.json").exists(), "{run} is whole");
    }
}

#[test]
fn verbose_tells_on_standard_error_what_is_read_and_made() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let first = sandbox.train(&["-v"]).succeeds();
    assert!(first.stderr.contains("making tokens") && first.stderr.contains("the machine"));
    assert!(!first.stderr.contains("a file of the corpus"), "that is a detail");
    assert!(!first.stdout.contains("making tokens"), "{}", first.stdout);
    let again = sandbox.train(&["-vv", "--out", "again"]).succeeds();
    assert!(again.stderr.contains("tokens are in the cache"), "{}", again.stderr);
    assert!(again.stderr.contains("a file of the corpus") && again.stderr.contains("corpus.txt"));
    let plain = sandbox.train(&["--out", "plain"]).succeeds();
    assert!(!plain.stderr.contains("the machine"), "{}", plain.stderr);
}
