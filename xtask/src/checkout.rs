//! The checkout that a command works on, and cargo as it is called there.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};

/// The variables that `.cargo/config.toml` sets for everything cargo runs.
const TORCH_VARIABLES: [&str; 3] = ["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_LIB"];

/// A checkout of bert4rs.
pub(crate) struct Checkout {
    root: PathBuf,
}

impl Checkout {
    /// The checkout whose xtask cargo runs, else the one around the working folder.
    pub(crate) fn find() -> Result<Self> {
        let start = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(xtask) => PathBuf::from(xtask),
            None => env::current_dir().map_err(Error::at(Path::new(".")))?,
        };
        match start.ancestors().find(|folder| folder.join(".cargo/config.toml").is_file()) {
            Some(root) => Ok(Checkout { root: root.to_path_buf() }),
            None => Err(Error::NoCheckout(start)),
        }
    }

    /// The folder that holds the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of links into libtorch that the build reads.
    pub(crate) fn torch(&self) -> PathBuf {
        self.root.join(".torch")
    }

    /// The libtorch that the user named in `LIBTORCH`, unless it is the build's own folder.
    pub(crate) fn user_libtorch(&self) -> Option<PathBuf> {
        let path = PathBuf::from(env::var_os("LIBTORCH").filter(|value| !value.is_empty())?);
        (!self.is_torch(&path)).then_some(path)
    }

    fn is_torch(&self, path: &Path) -> bool {
        let torch = self.torch();
        path == torch
            || matches!((path.canonicalize(), torch.canonicalize()), (Ok(a), Ok(b)) if a == b)
    }

    /// `cargo` in the user's folder, in the environment a shell would give it.
    ///
    /// Cargo describes the package it runs to that package in variables. Handed on, they would
    /// differ from what the next `cargo build` by hand sees, and libtorch's bindings would be
    /// compiled again each time.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        self.forget_package(&mut command);
        command
    }

    /// Takes the variables that describe xtask itself from a command's environment.
    pub(crate) fn forget_package(&self, command: &mut Command) {
        for (name, value) in env::vars_os() {
            let text = name.to_string_lossy();
            let ours = TORCH_VARIABLES.contains(&&*text) && self.is_torch(Path::new(&value));
            if ours || text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
    }
}

/// The commit of the checkout at `root`, with `+` if it has changes; `unknown` where git does not
/// say.
pub(crate) fn commit(root: &Path) -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let is_changed = git(&["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty());
    format!("{commit}{}", if is_changed { "+" } else { "" })
}

/// A command as one would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let mut words: Vec<String> = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.to_string_lossy(), quoted(&value.to_string_lossy())));
        }
    }
    let program = Path::new(command.get_program());
    words.push(match program.file_name() {
        Some(name) if name == "cargo" => "cargo".to_owned(),
        _ => quoted(&program.to_string_lossy()),
    });
    words.extend(command.get_args().map(|word| quoted(&word.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_pasted_into_a_shell() {
        let mut command = Command::new("/usr/lib/rust/bin/cargo");
        command.args(["doc", "it's", ""]).env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(shown(&command), r"RUSTDOCFLAGS='-D warnings' cargo doc 'it'\''s' ''");
    }
}
