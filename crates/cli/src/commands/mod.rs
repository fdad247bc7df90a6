//! One file a command.

pub(crate) mod doctor;
pub(crate) mod presets;
pub(crate) mod train;

use std::io::Write;

/// Prints a line to standard output. A closed pipe is no failure.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
