//! The CUDA emulator's tests under the compiler's sanitizers, which see what a GPU would not tell:
//! reads beside a tensor, undefined shifts, threads of a block that race.
//!
//! Only the kernels, which the tests compile as C++, are instrumented. The sanitizer's library has
//! to be loaded before all others, so it is preloaded.

use std::path::Path;
use std::process::Command;

use super::CheckOutcome;
use super::skips;
use crate::checkout::{Checkout, shown};
use crate::error::Result;

/// What the kernels are compiled with.
#[derive(Clone, Copy)]
pub(crate) enum Sanitizer {
    AddressAndUndefined,
    Thread,
}

impl Sanitizer {
    pub(crate) const ALL: [Self; 2] = [Self::AddressAndUndefined, Self::Thread];

    /// As after the compiler's `-fsanitize=`.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::AddressAndUndefined => "address,undefined",
            Self::Thread => "thread",
        }
    }

    /// The library that must come first.
    fn library(self) -> &'static str {
        match self {
            Self::AddressAndUndefined => "libasan.so",
            Self::Thread => "libtsan.so",
        }
    }

    /// The library's settings: not to be bothered by what it cannot see into.
    fn options(self) -> (&'static str, &'static str) {
        match self {
            // libtorch keeps memory to its end.
            Self::AddressAndUndefined => ("ASAN_OPTIONS", "detect_leaks=0"),
            // Rust's and libtorch's own locks are not instrumented.
            Self::Thread => ("TSAN_OPTIONS", "ignore_noninstrumented_modules=1 halt_on_error=1"),
        }
    }

    pub(crate) fn run(self, checkout: &Checkout) -> Result<CheckOutcome> {
        match preloadable(self.library()) {
            Some(path) => skips::run(&mut self.command(checkout, &path)).map(CheckOutcome::Passed),
            None => Ok(CheckOutcome::Skipped(format!("c++ has no {}", self.library()))),
        }
    }

    pub(crate) fn by_hand(self, checkout: &Checkout) -> String {
        shown(&self.command(checkout, self.library()))
    }

    fn command(self, checkout: &Checkout, library: &str) -> Command {
        let mut cargo = checkout.cargo();
        cargo.args(["test", "--package", "bert4rs-kernels", "--lib"]);
        // Neither cargo nor the compiler shall run under it.
        let runner = format!("target.'cfg(all())'.runner = ['env', 'LD_PRELOAD={library}']");
        cargo.arg("--config").arg(runner).arg("emulated");
        let (name, options) = self.options();
        cargo.env("BERT4RS_SANITIZE", self.flag()).env(name, options);
        cargo
    }
}

/// The path of a library of the C++ compiler's, if it is installed.
fn preloadable(library: &str) -> Option<String> {
    let output = Command::new("c++").arg(format!("-print-file-name={library}")).output().ok()?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // A compiler that does not find it gives the bare name back.
    Path::new(&path).is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_not_preloaded() {
        assert_eq!(preloadable("libno-such-sanitizer.so"), None);
    }
}
