//! The checks that are one cargo command each.

use std::path::PathBuf;
use std::process::Command;

use super::skips::{self, Skip};
use crate::checkout::{Checkout, shown};
use crate::error::Result;
use crate::kernels;

/// A cargo command that must succeed.
pub(crate) struct CargoCheck {
    pub(crate) name: &'static str,
    arguments: &'static str,
    with: With,
}

/// What a command gets beside its arguments.
enum With {
    Nothing,
    /// NVRTC, so that the test that compiles every kernel is not skipped.
    Nvrtc,
    /// Overflow checks and debug assertions, in the crates that read untrusted bytes or have
    /// `unsafe` code.
    DebugChecks,
}

pub(crate) const CHECKS: [CargoCheck; 5] = [
    CargoCheck { name: "format", arguments: "fmt --all --check", with: With::Nothing },
    CargoCheck {
        name: "lint",
        arguments: "clippy --workspace --all-targets -- -D warnings",
        with: With::Nothing,
    },
    CargoCheck {
        name: "test",
        arguments: "test --workspace --lib --bins --tests --examples",
        with: With::Nvrtc,
    },
    CargoCheck { name: "doc test", arguments: "test --workspace --doc", with: With::Nothing },
    CargoCheck { name: "doc", arguments: "xtask doc", with: With::Nothing },
];

/// Left out of a fast test.
pub(crate) const PACKAGE: CargoCheck = CargoCheck {
    name: "package",
    arguments: "package --workspace --exclude bert4rs-xtask --exclude bert4rs-benches \
                --no-verify --allow-dirty --quiet",
    with: With::Nothing,
};

/// Left out of a fast test. What is emulated is C++, which these flags leave as it is.
pub(crate) const DEBUG_CHECKS: CargoCheck = CargoCheck {
    name: "unit tests with overflow checks and debug assertions",
    arguments: "test --lib --package bert4rs-data --package bert4rs-kernels \
                --package bert4rs-tensor-core -- --skip emulated",
    with: With::DebugChecks,
};

/// Switches overflow checks and debug assertions on for some packages of the one profile, so
/// that all others serve as they are built.
fn debug_checks(checkout: &Checkout) -> PathBuf {
    checkout.root().join(".cargo/debug-checks.toml")
}

impl CargoCheck {
    pub(crate) fn run(&self, checkout: &Checkout) -> Result<Vec<Skip>> {
        let mut command = self.command(checkout);
        if let With::Nvrtc = self.with {
            kernels::add_nvrtc(&mut command)?;
        }
        skips::run(&mut command)
    }

    /// As one would type it.
    pub(crate) fn by_hand(&self, checkout: &Checkout) -> String {
        shown(&self.command(checkout))
    }

    fn command(&self, checkout: &Checkout) -> Command {
        let mut cargo = checkout.cargo();
        if let With::DebugChecks = self.with {
            cargo.arg("--config").arg(debug_checks(checkout));
        }
        cargo.args(self.arguments.split_whitespace());
        // Tests run side by side: a thread that spins takes the core of one that has work.
        if self.arguments.starts_with("test") {
            cargo.env("GOMP_SPINCOUNT", "0");
        }
        cargo
    }
}
