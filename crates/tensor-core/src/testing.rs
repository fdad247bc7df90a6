//! For tests that need what a machine may lack, such as a GPU.

use std::io::Write;

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
