//! `cargo xtask kernels`: compiles every CUDA kernel, without a GPU.

use std::env;
use std::process::{Command, ExitCode};

use crate::checkout::{Checkout, shown};
use crate::error::{Error, Result};
use crate::{console, setup};

/// What cargo runs; the test itself tells what it holds.
pub(crate) const TEST: &str = "test --package bert4rs-kernels --test it compile";

/// Compile every CUDA kernel for Ampere, Ada and Hopper, and refuse warnings and spilled registers
///
/// Needs no GPU: fetches NVIDIA's run-time compiler (90 MB) once.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Compiles all kernels.
pub(crate) fn run(checkout: &Checkout, _args: &Args) -> Result<ExitCode> {
    setup::ensure(checkout)?;
    check(checkout)?;
    console::line("all kernels compile");
    Ok(ExitCode::SUCCESS)
}

/// Runs the test that compiles all kernels, with NVRTC where it finds it.
pub(crate) fn check(checkout: &Checkout) -> Result<()> {
    let mut command = command(checkout)?;
    let status = command.status().map_err(Error::at(std::path::Path::new("cargo")))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Child { command: shown(&command), status: status.to_string() }),
    }
}

fn command(checkout: &Checkout) -> Result<Command> {
    let mut folders = vec![setup::nvrtc()?];
    folders.extend(env::split_paths(&env::var_os("LD_LIBRARY_PATH").unwrap_or_default()));
    let mut cargo = checkout.cargo();
    cargo.args(TEST.split_whitespace()).env("BERT4RS_NEED_NVRTC", "1");
    if let Ok(path) = env::join_paths(folders) {
        cargo.env("LD_LIBRARY_PATH", path);
    }
    Ok(cargo)
}
