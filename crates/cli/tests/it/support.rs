//! A folder with a small real text, and the program run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder of its own, with a cache of its own.
pub(crate) struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// A corpus of this project's own documentation: real English, and always there.
    pub(crate) fn corpus(&self) -> PathBuf {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/architecture.md");
        let text = std::fs::read_to_string(docs).unwrap();
        self.write("corpus.txt", text.repeat(4))
    }

    /// Runs the program in the folder.
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        self.run_with(args, &[])
    }

    /// The same with environment variables of its own; an unnamed one is left out.
    fn run_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let variables = variables.iter().filter(|(name, _)| !name.is_empty()).copied();
        Outcome::new(self.command(args).envs(variables).output().unwrap())
    }

    /// The program with its arguments, to be run in the folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bert4rs"));
        command.args(args).current_dir(self.folder.path());
        command.env("XDG_CACHE_HOME", self.path("cache"));
        // Tests run side by side, so that threads had better sleep than spin; and said from the
        // start, it spares the program to begin anew.
        command.env("GOMP_SPINCOUNT", "0");
        command
    }

    /// Trains a tiny model on `corpus` for a few steps into `run`.
    pub(crate) fn train(&self, extra: &[&str]) -> Outcome {
        self.train_with(extra, &[])
    }

    /// The same with environment variables of its own.
    pub(crate) fn train_with(&self, extra: &[&str], variables: &[(&str, &str)]) -> Outcome {
        self.run_with(&train_args(extra), variables)
    }

    /// The names in a folder, sorted; empty where there is no such folder.
    pub(crate) fn list(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Arguments that train a tiny model on `corpus.txt` into `run`, if `extra` does not say otherwise.
pub(crate) fn train_args<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["train"];
    args.extend(TINY);
    args.extend(["--vocab-size", "400"]);
    if !extra.contains(&"--corpus") && !extra.contains(&"--config") {
        args.extend(["--corpus", "corpus.txt"]);
    }
    if !extra.contains(&"--out") {
        args.extend(["--out", "run"]);
    }
    args.extend(extra);
    args
}

/// The shape and length of a run of a tiny model, whose vocabulary is left to its tokenizer.
pub(crate) const TINY: [&str; 20] = [
    "--max-steps",
    "6",
    "--batch-size",
    "2",
    "--seq-len",
    "32",
    "--hidden-size",
    "32",
    "--num-layers",
    "1",
    "--num-heads",
    "2",
    "--set",
    "train.log_every=2",
    "--set",
    "train.eval_sequences=4",
    "--set",
    "data.held_out=0.1",
    "--device",
    "cpu",
];

/// How a run of the program ended.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Fails the test unless the program succeeded.
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless the program ended with exit code 2 and one message that holds all
    /// of `parts`.
    pub(crate) fn refuses(self, parts: &[&str]) -> Self {
        self.ends_with(2, parts)
    }

    /// The same with exit code 1: the input was fine, the machine was not.
    pub(crate) fn fails(self, parts: &[&str]) -> Self {
        self.ends_with(1, parts)
    }

    fn ends_with(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.matches("error:").count(), 1, "one message: {}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in: {}", self.stderr);
        }
        self
    }
}
