//! For tests that need what a machine may lack, such as a GPU, or a process of their own.

use std::env;
use std::io::Write;
use std::process::Command;

use crate::Device;
use crate::device::{Cuda, cuda};

/// Says on standard error that the present test does nothing, and why. `cargo xtask test` lists
/// what was skipped.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {reason}\n", thread.name().unwrap_or("a test"));
    // Not `eprint!`, which the test harness keeps to itself where a test passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The first CUDA device; where there is none, the test is skipped.
pub fn cuda_or_skip() -> Option<Device> {
    match cuda() {
        Cuda::Devices(_) => Some(Device::Cuda(0)),
        Cuda::None(reason) => {
            skip(reason);
            None
        }
    }
}

/// Runs `body` in a process of its own, whose memory and generators no other test touches.
/// `test` is the calling test's full name.
///
/// # Panics
/// Where that process fails, with what it said.
pub fn in_own_process(test: &str, body: impl FnOnce()) {
    in_own_process_after("true", test, body);
}

/// As [`in_own_process`], after the shell commands `setup`, such as limits.
///
/// # Panics
/// As [`in_own_process`].
pub fn in_own_process_after(setup: &str, test: &str, body: impl FnOnce()) {
    const MARK: &str = "BERT4RS_TEST_IN_OWN_PROCESS";
    if env::var_os(MARK).is_some() {
        return body();
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{setup} && exec \"$@\""), "sh"]);
    shell.arg(env::current_exe().expect("the test program has a path"));
    let child = shell.args(["--exact", test, "--nocapture"]).env(MARK, "1").output();
    let child = child.expect("a shell starts");
    let text = String::from_utf8_lossy(&child.stdout);
    let errors = String::from_utf8_lossy(&child.stderr);
    // What it skipped is skipped here.
    errors.lines().filter(|line| line.starts_with("skipped: ")).for_each(|line| {
        let _ = writeln!(std::io::stderr(), "{line}");
    });
    assert!(child.status.success() && text.contains("1 passed"), "{test}:\n{text}\n{errors}");
}
