//! The libtorch that this process runs on.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::ffi::CStr;
use std::path::PathBuf;

use crate::shim;

/// Version of the headers that this was compiled against, such as `2.11.0`.
pub fn version() -> &'static str {
    // SAFETY: a literal of the shim: NUL-terminated, alive for ever.
    let text = unsafe { CStr::from_ptr(shim::b4_torch_version()) };
    text.to_str().unwrap_or("unknown")
}

/// The folder that the loaded `libtorch_cpu.so` really lies in, links resolved.
pub fn folder() -> Option<PathBuf> {
    // SAFETY: the shim gives a string from malloc, or null.
    let path = unsafe { shim::take_text(shim::b4_torch_path()) }?;
    let real = std::fs::canonicalize(path).ok()?;
    real.parent().map(PathBuf::from)
}

/// The vector instructions that libtorch's own CPU kernels use here, such as `AVX512`.
pub fn cpu_capability() -> String {
    // SAFETY: as in `folder`.
    unsafe { shim::take_text(shim::b4_cpu_capability()) }.unwrap_or_else(|| "unknown".into())
}
