//! `bert4rs completions` and `bert4rs man`: what shells and `man` read, made from the flags.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use bert4rs_tensor_core::Error as Core;
use bert4rs_train::Result;
use bert4rs_train::output::print_part;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::flags::{Cli, CompletionsFlags, ManFlags};

/// Prints the completions of a shell.
pub(crate) fn completions(flags: &CompletionsFlags) -> Result<ExitCode> {
    print_part(&script(flags.shell))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bert4rs", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for each command.
pub(crate) fn man(flags: &ManFlags) -> Result<ExitCode> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| bert4rs_train::Error::from(Core::Io { path, source })
    };
    fs::create_dir_all(&flags.out).map_err(io(&flags.out))?;
    clap_mangen::generate_to(Cli::command(), &flags.out).map_err(io(&flags.out))?;
    Ok(ExitCode::SUCCESS)
}
