//! A lesser class of processor that programs and peers keep to.

use std::path::Path;

use crate::checkout::Checkout;
use crate::error::{Error, Result};
use crate::program;

/// The variables that keep a process to a class of processor.
pub(crate) type Environment = Vec<(String, String)>;

/// Asks `program` for the variables of the class `name`, which it refuses where the machine can't
/// play it.
pub(crate) fn environment(checkout: &Checkout, program: &Path, name: &str) -> Result<Environment> {
    let mut command = program::command(checkout, program);
    let output =
        command.args(["doctor", "--cpu-isa", name]).output().map_err(Error::at(program))?;
    let variables = variables(&String::from_utf8_lossy(&output.stdout));
    if output.status.success() && !variables.is_empty() {
        return Ok(variables);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.trim().trim_start_matches("error:").trim().to_owned();
    Err(Error::BadFlag { flag: "--cpu-isa", reason })
}

/// Those in the line of `doctor` that begins with "limited to".
fn variables(shown: &str) -> Environment {
    let line = shown.lines().find(|line| line.starts_with("limited to")).unwrap_or_default();
    let words = line.split_whitespace().filter_map(|word| word.split_once('='));
    words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_those_of_their_line() {
        let shown = "CPU             x=1\nlimited to      avx2 by A=avx2 B_C=AVX2\nthreads  d=2\n";
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(variables(shown), [pair("A", "avx2"), pair("B_C", "AVX2")]);
        assert!(variables("CPU x=1\n").is_empty());
    }
}
