//! Standard output. A write that fails is an error; [`Error::is_closed_pipe`] tells the harmless
//! kind, a reader that has seen enough.
//!
//! [`Error::is_closed_pipe`]: crate::Error::is_closed_pipe

use std::io::{self, Write};

use crate::error::{Error, Result};

/// Prints a line.
///
/// # Errors
/// What the system says.
pub fn print_line(text: &str) -> Result<()> {
    write(&mut io::stdout().lock(), &[text, "\n"])
}

/// Prints a part of a line, at once.
///
/// # Errors
/// What the system says.
pub fn print_part(text: &str) -> Result<()> {
    write(&mut io::stdout().lock(), &[text])
}

fn write(out: &mut impl Write, parts: &[&str]) -> Result<()> {
    parts
        .iter()
        .try_for_each(|part| out.write_all(part.as_bytes()))
        .and_then(|()| out.flush())
        .map_err(|source| Error::Output { source })
}
