//! The one error type of this crate, and the border that panics do not cross.
//!
//! `tch`'s fallible functions do not always return: one that takes a number, such as
//! `f_add_scalar`, panics on libtorch's exception when it drops its argument. So
//! [`catch_torch_error`] is the border that a program needs, and [`Context`] adds words where an
//! error does return.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use tch::TchError;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong below the models: devices, files, and all that libtorch throws.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch refused an operation.
    #[error("{op}: {message}")]
    Torch {
        /// The operation that was asked for.
        op: String,
        /// libtorch's own words, without its C++ backtrace.
        message: String,
    },
    /// The device's memory, or the process's, does not hold what was asked for.
    #[error("{op}: out of memory: {message} (try a smaller batch, sequence or model)")]
    OutOfMemory {
        /// The operation that was asked for.
        op: String,
        /// libtorch's own words.
        message: String,
    },
    /// A tensor has another shape than the operation takes.
    #[error("{op}: {tensor} has shape {found:?}, expected {expected}")]
    Shape {
        /// The operation that was asked for.
        op: &'static str,
        /// The tensor's name in that operation.
        tensor: &'static str,
        /// The shape it has.
        found: Vec<i64>,
        /// The shape it should have, in words.
        expected: String,
    },
    /// A device that is not there, or a name that is none.
    #[error("device {asked:?}: {reason}")]
    Device {
        /// What the user asked for.
        asked: String,
        /// Why it can't be had and what can.
        reason: String,
    },
    /// Something that this machine, device or dtype can't do.
    #[error("{what} is not possible here: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why not, and what to choose instead.
        reason: String,
    },
    /// Another process of the run ended, hangs or left.
    #[error("rank {rank}, {op}: {reason}")]
    Distributed {
        /// This process.
        rank: usize,
        /// What it asked of the others.
        op: &'static str,
        /// Who is missing, and the words of the library that noticed.
        reason: String,
    },
    /// Processes that were started together were given unlike things to do.
    #[error(
        "the processes of this run differ in {what}: rank {rank} has {own}, rank {other} has \
         {found}; start all with the same program, configuration and data"
    )]
    Disagreement {
        /// What differs.
        what: String,
        /// This process.
        rank: usize,
        /// Its value.
        own: String,
        /// The other process.
        other: usize,
        /// The other's value.
        found: String,
    },
    /// A launcher's variable that is missing or makes no sense.
    #[error("environment variable {variable} = {value:?}: {reason}")]
    Launch {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file's contents are not what its name promises.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what was expected.
        reason: String,
    },
}

impl Error {
    /// An error of libtorch while doing `op`, sorted by its text.
    pub fn torch(op: impl Into<String>, error: TchError) -> Self {
        let text = match error {
            TchError::Torch(text) => text,
            other => other.to_string(),
        };
        Self::from_torch_text(op.into(), &text)
    }

    pub(crate) fn from_torch_text(op: String, text: &str) -> Self {
        let message = one_line(text);
        let lower = message.to_lowercase();
        if OUT_OF_MEMORY_SIGNS.iter().any(|sign| lower.contains(sign)) {
            Self::OutOfMemory { op, message }
        } else {
            Self::Torch { op, message }
        }
    }
}

/// What libtorch, its CUDA libraries and C++ say where memory does not suffice, in lower case.
const OUT_OF_MEMORY_SIGNS: [&str; 7] = [
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "storage size calculation overflowed",
    "std::bad_alloc",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
];

/// libtorch's words on one line, without the C++ frames and source places, which help no user.
fn one_line(text: &str) -> String {
    let frames = ["Exception raised from ", "frame #0: "];
    let end = frames.iter().filter_map(|start| text.find(start)).min().unwrap_or(text.len());
    let words: Vec<&str> = text[..end].split_whitespace().collect();
    let line = words.join(" ");
    let line = line.trim_start_matches("Internal torch error: ");
    match line.strip_prefix("[enforce fail at ").and_then(|rest| rest.split_once("] ")) {
        Some((_place, rest)) => rest.trim_start_matches("err == 0. ").to_owned(),
        None => line.to_owned(),
    }
}

/// Runs `body` and turns a panic inside, such as that of a `tch` operator on a C++ exception,
/// into an error of `op`.
///
/// The panic hook still runs: a program that wants silence sets its own.
///
/// # Errors
/// The panic, as [`Error::OutOfMemory`] where its text says so, else as [`Error::Torch`].
pub fn catch_torch_error<T>(op: &str, body: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body))
        .map_err(|payload| Error::from_torch_text(op.to_owned(), &panic_text(payload.as_ref())))
}

/// What a panic says; libtorch's own words where one of `tch`'s operators panicked.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("panic without a message");
    one_line(&unquote_unwrap(text))
}

/// `called Result::unwrap() on an Err value: Torch("...")` becomes the text inside, with its
/// escapes undone.
fn unquote_unwrap(text: &str) -> String {
    let Some((_, quoted)) = text.split_once("value: Torch(\"") else {
        return text.to_owned();
    };
    let mut plain = String::with_capacity(quoted.len());
    let mut letters = quoted.strip_suffix("\")").unwrap_or(quoted).chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('n' | 't' | 'r') => plain.push('\n'),
                Some(escaped) => plain.push(escaped),
                None => {}
            },
            letter => plain.push(letter),
        }
    }
    plain
}

/// Adds the operation's name to `tch`'s errors.
pub trait Context<T> {
    /// `self`, with `op` named in its error.
    ///
    /// # Errors
    /// That of `self`.
    fn during(self, op: &str) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, TchError> {
    fn during(self, op: &str) -> Result<T> {
        self.map_err(|error| Error::torch(op, error))
    }
}
