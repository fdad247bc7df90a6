//! The `bert4rs` program: built by cargo, found wherever cargo put it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;

use crate::checkout::{Checkout, shown};
use crate::error::{Error, Result};

/// A program that cargo built.
#[derive(Debug, PartialEq)]
pub(crate) struct Artifact {
    /// The package that it belongs to.
    pub(crate) package: String,
    /// The target's name.
    pub(crate) name: String,
    /// Its kinds, such as `bin` and `test`.
    pub(crate) kinds: Vec<String>,
    /// It runs tests.
    pub(crate) is_test: bool,
    pub(crate) executable: PathBuf,
}

/// The part of cargo's messages that tells of programs.
#[derive(Deserialize)]
struct Message {
    package_id: String,
    executable: PathBuf,
    target: Target,
    profile: Profile,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Runs `cargo build` with these arguments; returns the programs that it made.
pub(crate) fn build_all(checkout: &Checkout, arguments: &[&str]) -> Result<Vec<Artifact>> {
    let mut cargo = checkout.cargo();
    cargo.arg("build").args(arguments);
    let command = shown(&cargo);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = cargo.output().map_err(Error::at(Path::new("cargo")))?;
    match output.status.success() {
        true => Ok(artifacts(&String::from_utf8_lossy(&output.stdout))),
        false => Err(Error::Child { command, status: output.status.to_string() }),
    }
}

/// The programs among cargo's messages.
pub(crate) fn artifacts(messages: &str) -> Vec<Artifact> {
    // Messages about anything else have not all of a program's fields.
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let artifact = |message: Message| Artifact {
        package: package(&message.package_id).to_owned(),
        name: message.target.name,
        kinds: message.target.kind,
        is_test: message.profile.test,
        executable: message.executable,
    };
    messages.map(artifact).collect()
}

/// The name in a package's id, such as `path+file:///x/crates/kernels#bert4rs-kernels@0.1.0`.
fn package(id: &str) -> &str {
    let name = id.rsplit('#').next().unwrap_or(id);
    name.split('@').next().unwrap_or(name)
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
    let built = build_all(
        checkout,
        match with {
            With::Nothing => &["--package", "bert4rs-cli"],
            With::Tests => &["--workspace", "--bins", "--tests", "--examples"],
        },
    )?;
    let program =
        built.into_iter().find(|artifact| artifact.name == "bert4rs" && !artifact.is_test);
    program.map(|artifact| artifact.executable).ok_or(Error::Malformed {
        path: PathBuf::from("crates/cli/Cargo.toml"),
        reason: "its build made no program called bert4rs".to_owned(),
    })
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
    fn programs_are_found_among_the_messages() {
        let messages = r#"
            {"package_id":"path+file:///x/crates/train#bert4rs-train@0.1.0","executable":null,
             "target":{"name":"bert4rs-train","kind":["lib"]},"profile":{"test":false}}
            {"package_id":"path+file:///x/crates/cli#bert4rs-cli@0.1.0","executable":"/t/bert4rs",
             "target":{"name":"bert4rs","kind":["bin"]},"profile":{"test":false}}
            {"reason":"build-finished","success":true}
        "#;
        let one_a_line = messages.replace(",\n", ",");
        let expected = Artifact {
            package: "bert4rs-cli".to_owned(),
            name: "bert4rs".to_owned(),
            kinds: vec!["bin".to_owned()],
            is_test: false,
            executable: PathBuf::from("/t/bert4rs"),
        };
        assert_eq!(artifacts(&one_a_line), [expected]);
        assert_eq!(artifacts("not json"), []);
    }

    #[test]
    fn a_program_s_exit_code_is_passed_on() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(exit_code(ExitStatus::from_raw(2 << 8)), 2);
        assert_eq!(exit_code(ExitStatus::from_raw(2)), 130);
    }
}
