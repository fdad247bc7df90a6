//! The `bert4rs` program: built by cargo, found wherever cargo put it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;

use crate::checkout::{Checkout, shown};
use crate::error::{Error, Result};

/// The part of cargo's messages that tells where a program is.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// What to build the program with. Cargo gives a dependency the features that all built at once
/// ask for, so each choice has its own compiled dependencies.
#[derive(Clone, Copy)]
pub(crate) enum With {
    /// Nothing else: the least to wait for.
    Nothing,
    /// The tests, so that what they were built with serves again.
    Tests,
}

/// Builds the program with the one profile that there is, and returns its path.
pub(crate) fn build(checkout: &Checkout, with: With) -> Result<PathBuf> {
    let mut cargo = checkout.cargo();
    cargo.arg("build").args(match with {
        With::Nothing => &["--package", "bert4rs-cli"][..],
        With::Tests => &["--workspace", "--bins", "--tests", "--examples"],
    });
    let command = shown(&cargo);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = cargo.output().map_err(Error::at(Path::new("cargo")))?;
    if !output.status.success() {
        return Err(Error::Child { command, status: output.status.to_string() });
    }
    executable(&String::from_utf8_lossy(&output.stdout)).ok_or(Error::Malformed {
        path: PathBuf::from("crates/cli/Cargo.toml"),
        reason: "its build made no program called bert4rs".to_owned(),
    })
}

fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.target.as_ref().is_some_and(|target| target.name == "bert4rs"))
        .filter(|message| message.profile.as_ref().is_some_and(|profile| !profile.test))
        .find_map(|message| message.executable)
}

/// The program as a command, in the environment a shell would give it.
pub(crate) fn command(checkout: &Checkout, program: &Path) -> Command {
    let mut command = Command::new(program);
    checkout.forget_package(&mut command);
    command
}

/// The code to exit with after a program that ran in our place: its own, or what a shell says
/// when a signal ended it.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_the_messages() {
        let messages = r#"
            {"target":{"name":"bert4rs-train"},"profile":{"test":false},"executable":null}
            {"target":{"name":"bert4rs"},"profile":{"test":true},"executable":"/t/bert4rs-0a1b"}
            {"target":{"name":"bert4rs"},"profile":{"test":false},"executable":"/t/bert4rs"}
            {"reason":"build-finished","success":true}
        "#;
        assert_eq!(executable(messages), Some(PathBuf::from("/t/bert4rs")));
        assert_eq!(executable("not json"), None);
    }

    #[test]
    fn a_program_s_exit_code_is_passed_on() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(exit_code(ExitStatus::from_raw(2 << 8)), 2);
        assert_eq!(exit_code(ExitStatus::from_raw(2)), 130);
    }
}
