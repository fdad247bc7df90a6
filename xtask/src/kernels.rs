//! `cargo xtask kernels`: compiles every CUDA kernel, without a GPU.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::checkout::{Checkout, shown};
use crate::error::{Error, Result};
use crate::{console, setup};

/// Compile every CUDA kernel for Ampere, Ada and Hopper, and refuse warnings and spilled registers
///
/// Needs no GPU: fetches NVIDIA's run-time compiler (90 MB) once.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Compiles all kernels: runs the test that does.
pub(crate) fn run(checkout: &Checkout, _args: &Args) -> Result<ExitCode> {
    setup::ensure(checkout)?;
    let mut cargo = checkout.cargo();
    cargo.args(["test", "--package", "bert4rs-kernels", "--test", "it", "compile"]);
    add_nvrtc(&mut cargo)?;
    let status = cargo.status().map_err(Error::at(Path::new("cargo")))?;
    if !status.success() {
        return Err(Error::Child { command: shown(&cargo), status: status.to_string() });
    }
    console::line("all kernels compile");
    Ok(ExitCode::SUCCESS)
}

/// Lets the tests that a command runs load NVRTC, which is fetched where it is missing, and has
/// them fail where they cannot.
pub(crate) fn add_nvrtc(command: &mut Command) -> Result<()> {
    let mut folders = vec![setup::nvrtc()?];
    folders.extend(env::split_paths(&env::var_os("LD_LIBRARY_PATH").unwrap_or_default()));
    command.env("BERT4RS_NEED_NVRTC", "1");
    if let Ok(path) = env::join_paths(folders) {
        command.env("LD_LIBRARY_PATH", path);
    }
    Ok(())
}
