//! How failures leave the program: one message, and an exit code that tells whose fault it was.

use std::io::Write;
use std::process::ExitCode;

use bert4rs_tensor_core::error::catch_torch_error;
use bert4rs_train::Error;
use clap::builder::Styles;

/// What the user gave can't be used.
const BAD_INPUT: u8 = 2;
/// The input was fine, but the machine, libtorch or this program failed.
const FAILED: u8 = 1;

/// A signal stopped it: this and the signal's number, as shells have it.
const BY_SIGNAL: u8 = 128;

/// Runs a command; its error, or the panic of an operation inside, becomes one message. Where
/// nobody reads the output any more, the command just ends.
pub(crate) fn report(command: impl FnOnce() -> Result<ExitCode, Error>) -> ExitCode {
    // The panic's text reaches the user through `catch_torch_error`, once.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = catch_torch_error("bert4rs", command).unwrap_or_else(|error| Err(error.into()));
    match outcome {
        Ok(code) => code,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::from(match error {
                Error::Stopped { signal, .. } | Error::StoppedEarly { signal, .. } => {
                    BY_SIGNAL + signal
                }
                error if error.is_bad_input() => BAD_INPUT,
                _ => FAILED,
            })
        }
    }
}

/// The message on standard error, coloured where clap would colour its own.
fn say(error: &Error) {
    let styles = Styles::styled();
    let style = styles.get_error();
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {error}");
}
