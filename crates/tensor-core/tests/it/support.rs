//! What several test modules use.

use std::env;
use std::io::Write;
use std::process::Command;

use bert4rs_tensor_core::{Kind, Tensor};

/// Runs `body` in a process of its own, whose memory and generators no other test touches.
/// `test` is the calling test's full name.
pub(crate) fn in_own_process(test: &str, body: impl FnOnce()) {
    in_own_process_after("true", test, body);
}

/// As [`in_own_process`], after the shell commands `setup`, such as limits.
pub(crate) fn in_own_process_after(setup: &str, test: &str, body: impl FnOnce()) {
    const MARK: &str = "BERT4RS_TEST_IN_OWN_PROCESS";
    if env::var_os(MARK).is_some() {
        return body();
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{setup} && exec \"$@\""), "sh"]);
    shell.arg(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let child = shell.env(MARK, "1").output().unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    let errors = String::from_utf8_lossy(&child.stderr);
    // What it skipped is skipped here.
    errors.lines().filter(|line| line.starts_with("skipped: ")).for_each(|line| {
        let _ = writeln!(std::io::stderr(), "{line}");
    });
    assert!(child.status.success() && text.contains("1 passed"), "{test}:\n{text}\n{errors}");
}

/// An FP64 leaf that requires gradients.
pub(crate) fn leaf(values: &[f64]) -> Tensor {
    Tensor::from_slice(values).set_requires_grad(true)
}

/// All values, in row-major order.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}
