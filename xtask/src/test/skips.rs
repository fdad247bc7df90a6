//! Tests that do nothing on this machine, such as those that need a GPU. Each says so on standard
//! error (`bert4rs_tensor_core::testing::skip`).

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::checkout::shown;
use crate::console;
use crate::error::{Error, Result};

/// How a test's line begins; the test's name and the reason follow.
const MARK: &str = "skipped: ";

/// A test or a check that did nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skip {
    what: String,
    reason: String,
}

/// Those of all checks. A test that is part of two checks is counted once.
pub(crate) type Skips = BTreeSet<Skip>;

impl Skip {
    pub(crate) fn new(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into() }
    }

    /// Reads a line that a test has written.
    fn parse(line: &str) -> Option<Self> {
        let (what, reason) = line.strip_prefix(MARK)?.split_once(": ")?;
        Some(Self::new(what, reason))
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

/// Runs a command, which must succeed; returns what its tests have skipped. Its output goes where
/// ours does.
pub(crate) fn run(command: &mut Command) -> Result<Vec<Skip>> {
    let what = shown(command);
    if io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let at = || Error::at(Path::new("cargo"));
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(at())?;
    let skips = match child.stderr.take() {
        Some(stderr) => read(BufReader::new(stderr), |line| console::note(line)).map_err(at())?,
        None => Vec::new(),
    };
    let status = child.wait().map_err(at())?;
    match status.success() {
        true => Ok(skips),
        false => Err(Error::Child { command: what, status: status.to_string() }),
    }
}

/// The skips among lines, each of which is passed on.
fn read(lines: impl BufRead, mut pass_on: impl FnMut(&str)) -> io::Result<Vec<Skip>> {
    let mut skips = Vec::new();
    for line in lines.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        skips.extend(Skip::parse(&line));
        pass_on(&line);
    }
    Ok(skips)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_read_from_lines_that_are_passed_on() {
        let text = b"Running it\nskipped: gpu::a: no driver: none\n\xff\n";
        let mut passed_on = Vec::new();
        let skips = read(&text[..], |line| passed_on.push(line.to_owned())).unwrap();
        assert_eq!(skips, [Skip::new("gpu::a", "no driver: none")]);
        assert_eq!(passed_on, ["Running it", "skipped: gpu::a: no driver: none", "\u{fffd}"]);
    }

    #[test]
    fn a_command_that_fails_is_an_error() {
        let run_with = |code: &str| run(Command::new("sh").args(["-c", "exit $1", "sh", code]));
        assert_eq!(run_with("0").unwrap(), []);
        assert!(run_with("3").unwrap_err().to_string().contains("exit status: 3"));
    }

    #[test]
    fn a_test_that_two_checks_skip_is_counted_once() {
        let skip = || Skip::parse("skipped: gpu::a: no driver").unwrap();
        assert_eq!(Skips::from([skip(), skip()]).len(), 1);
        assert_eq!(Skip::parse("gpu::a skipped: no driver"), None);
        assert_eq!(skip().to_string(), "gpu::a: no driver");
    }
}
