//! Why a command failed, told so that the reader knows what to do next.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The result of everything that can fail here.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Every way in which a command fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A libtorch that was asked for by name is of another version.
    #[error(
        "{origin} names libtorch {found} ({path}), but bert4rs needs {expected}: \
         point it at a libtorch {expected}, or take it away to have one fetched"
    )]
    WrongVersion {
        /// What named the folder: the variable or the local folder.
        origin: &'static str,
        /// The folder.
        path: PathBuf,
        /// The version found there.
        found: String,
        /// The one version that works.
        expected: &'static str,
    },

    /// A libtorch that was asked for by name cannot be used.
    #[error("{origin} names {path}, which is no libtorch to build with: {reason}")]
    UnusableLibtorch {
        /// What named the folder: the variable or the local folder.
        origin: &'static str,
        /// The folder.
        path: PathBuf,
        /// What it lacks, and what to do about it.
        reason: String,
    },

    /// No corpus has this name.
    #[error("no corpus is called `{name}`; there are: {known}")]
    UnknownCorpus {
        /// The name as given.
        name: String,
        /// The names that exist.
        known: String,
    },

    /// A flag of ours was given without its value.
    #[error("{flag} needs a value, as in `{example}`")]
    MissingValue {
        /// The flag.
        flag: &'static str,
        /// A correct use.
        example: &'static str,
    },

    /// The folder is not a checkout of bert4rs.
    #[error("no bert4rs checkout at or above {0}: run `cargo xtask` inside one")]
    NoCheckout(PathBuf),

    /// Neither variable that leads to the user's cache folder is set.
    #[error("there is no cache folder: set HOME, or XDG_CACHE_HOME to an absolute path")]
    NoCacheFolder,

    /// The pinned packages do not exist for this machine.
    #[error(
        "the libtorch that is fetched is built for Linux on x86-64, this is {os} on {arch}: \
         set LIBTORCH to a libtorch 2.11.0 for this machine"
    )]
    NoPackageForMachine {
        /// The operating system.
        os: &'static str,
        /// The processor family.
        arch: &'static str,
    },

    /// A program that does part of the work is not installed.
    #[error("the program `{program}` is missing: {remedy}")]
    ProgramMissing {
        /// The program.
        program: String,
        /// How to get it, or do without.
        remedy: &'static str,
    },

    /// A client of a package registry failed.
    #[error("fetching {what} failed: {remedy}\n{log}")]
    Fetch {
        /// The package.
        what: String,
        /// What to try.
        remedy: &'static str,
        /// The end of what the client said.
        log: String,
    },

    /// A fetched file is not the one that was pinned.
    #[error(
        "{path} has SHA-256 {found}, but {expected} is pinned: it was damaged on the way, or \
         replaced at its origin; it was not used. Run the command again"
    )]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: String,
        /// The pinned hash.
        expected: &'static str,
    },

    /// A fetched or found file does not have the form it should have.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A program that was started ended badly.
    #[error("`{command}` failed ({status})")]
    Child {
        /// The command as one would type it.
        command: String,
        /// How it ended.
        status: String,
    },

    /// A short training run did not learn.
    #[error("{0}")]
    NotLearning(String),

    /// A run did not survive what was done to it.
    #[error("{0}")]
    NotLasting(String),

    /// A definition of the benchmark matrix makes no sense.
    #[error("{path}: {reason}")]
    BadDefinition {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A name given to a flag is none of those that there are.
    #[error("{flag}: there is no `{name}`; there are: {known}")]
    UnknownName {
        /// The flag.
        flag: &'static str,
        /// The name as given.
        name: String,
        /// The names that exist.
        known: String,
    },

    /// A flag's value cannot be used.
    #[error("{flag}: {reason}")]
    BadFlag {
        /// The flag.
        flag: &'static str,
        /// What is wrong with its value.
        reason: String,
    },

    /// The folder for results holds something else.
    #[error("{0} is neither empty nor a folder of bench-matrix; choose another with --out")]
    NotAMatrix(PathBuf),

    /// The folder for results is in use.
    #[error("another bench-matrix runs in {0}; wait for it, or choose another folder with --out")]
    MatrixRuns(PathBuf),

    /// A file has no place for a table.
    #[error("{path}: has no lines `{begin}` and `{end}` to put the tables between; add them")]
    NoMarkers {
        /// The file.
        path: PathBuf,
        /// The line that the tables come after.
        begin: &'static str,
        /// The line that they come before.
        end: &'static str,
    },

    /// The operating system refused something.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder, or the program.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

impl Error {
    /// 2 for input that can never work, 1 for everything that went wrong on the way.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Error::WrongVersion { .. }
            | Error::UnusableLibtorch { .. }
            | Error::UnknownCorpus { .. }
            | Error::MissingValue { .. }
            | Error::BadDefinition { .. }
            | Error::UnknownName { .. }
            | Error::BadFlag { .. }
            | Error::NotAMatrix(_)
            | Error::MatrixRuns(_)
            | Error::NoMarkers { .. }
            | Error::NoCheckout(_)
            | Error::NoCacheFolder
            | Error::NoPackageForMachine { .. } => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// Adds the path to a refusal of the operating system, which never names it.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_path_buf(), source }
    }
}
