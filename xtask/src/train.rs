//! `cargo xtask train`: from a fresh clone to a training run in one command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::checkout::Checkout;
use crate::error::{Error, Result};
use crate::program::{self, With};
use crate::{corpus, setup};

/// Set up, fetch a corpus, build and train
///
/// Everything but --corpus-name goes to `bert4rs train` as it is. Without --preset, --config or
/// --corpus of your own, it trains the preset `recommended` on the corpus `movie-reviews`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `--corpus-name NAME` picks a corpus of `cargo xtask corpus`; all else is for
    /// `bert4rs train` (see `cargo xtask train -- --help`)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Trains, and passes the program's exit code on.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<ExitCode> {
    let arguments = TrainArguments::parse(&args.args)?;
    // Looked at first: a mistyped name shall not cost a download.
    let corpus = arguments.corpus_name.as_deref().map(corpus::find).transpose()?;
    setup::ensure(checkout)?;
    let corpus = corpus.map(corpus::PublicCorpus::fetch).transpose()?;
    let program = program::build(checkout, With::Nothing)?;
    let mut command = program::command(checkout, &program);
    command.args(arguments.words(corpus));
    let status = command.status().map_err(Error::at(&program))?;
    Ok(ExitCode::from(program::exit_code(status)))
}

/// What is ours among the arguments, and what is the program's.
#[derive(Debug, PartialEq)]
struct TrainArguments {
    corpus_name: Option<String>,
    add_preset: bool,
    forwarded: Vec<String>,
}

impl TrainArguments {
    fn parse(args: &[String]) -> Result<Self> {
        let mut name = None;
        let mut forwarded = Vec::new();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.split_once('=') {
                Some(("--corpus-name", value)) => name = Some(value.to_owned()),
                _ if arg == "--corpus-name" => name = Some(value_of(args.next())?),
                _ => forwarded.push(arg.clone()),
            }
        }
        let given = |flag| value_of_flag(&forwarded, flag).is_some();
        let asks_for_help = given("--help") || given("-h");
        let brings_corpus = asks_for_help
            || given("--corpus")
            || forwarded.iter().any(|arg| arg.contains("data.corpus="))
            || value_of_flag(&forwarded, "--config").is_some_and(names_corpus);
        let add_preset = !(given("--preset") || given("--config") || asks_for_help);
        let corpus_name = name.or_else(|| (!brings_corpus).then(|| corpus::DEFAULT.to_owned()));
        Ok(TrainArguments { corpus_name, add_preset, forwarded })
    }

    fn words(&self, corpus: Option<PathBuf>) -> Vec<std::ffi::OsString> {
        let mut words = vec!["train".into()];
        if self.add_preset {
            words.extend(["--preset".into(), "recommended".into()]);
        }
        if let Some(path) = corpus {
            words.extend(["--corpus".into(), path.into()]);
        }
        words.extend(self.forwarded.iter().map(Into::into));
        words
    }
}

/// The last value of `--flag VALUE` or `--flag=VALUE`; empty if none follows.
fn value_of_flag<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    let place = args.iter().rposition(|arg| arg.split('=').next() == Some(flag))?;
    match args[place].split_once('=') {
        Some((_, value)) => Some(value),
        None => Some(args.get(place + 1).map_or("", String::as_str)),
    }
}

/// Whether a configuration file, such as an earlier run's, says what to train on. One that
/// cannot be read does not; the program will say so better.
fn names_corpus(file: &str) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .any(|(key, value)| matches!(key.trim(), "corpus" | "data.corpus") && value.trim() != "[]")
}

fn value_of(next: Option<&String>) -> Result<String> {
    let missing = Error::MissingValue {
        flag: "--corpus-name",
        example: "cargo xtask train --corpus-name sotu",
    };
    next.filter(|value| !value.starts_with('-')).cloned().ok_or(missing)
}

/// Where a run's metrics are, one JSON object a step.
pub(crate) fn metrics(run: &Path) -> PathBuf {
    run.join("metrics.jsonl")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], corpus: Option<&str>, expected: &[&str]) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let arguments = TrainArguments::parse(&args).unwrap();
        assert_eq!(arguments.corpus_name.as_deref(), corpus, "{args:?}");
        let corpus = arguments.corpus_name.as_ref().map(|_| PathBuf::from("/c.txt"));
        assert_eq!(arguments.words(corpus), expected, "{args:?}");
    }

    #[test]
    fn preset_and_corpus_are_added_only_when_the_user_gave_none() {
        let both = ["train", "--preset", "recommended", "--corpus", "/c.txt"];
        check(&[], Some("movie-reviews"), &both);
        check(&["--corpus-name", "sotu"], Some("sotu"), &both);
        check(&["--corpus-name=sotu"], Some("sotu"), &both);
        check(
            &["--max-steps", "5", "--corpus-name", "sotu", "--set", "a.b=1"],
            Some("sotu"),
            &[&both[..], &["--max-steps", "5", "--set", "a.b=1"]].concat(),
        );
        check(
            &["--preset=baseline"],
            Some("movie-reviews"),
            &["train", "--corpus", "/c.txt", "--preset=baseline"],
        );
        check(
            &["--corpus", "mine.txt"],
            None,
            &["train", "--preset", "recommended", "--corpus", "mine.txt"],
        );
        check(
            &["--set", "data.corpus=[\"a\"]", "--preset", "p"],
            None,
            &["train", "--set", "data.corpus=[\"a\"]", "--preset", "p"],
        );
        check(&["--help"], None, &["train", "--help"]);
    }

    #[test]
    fn the_corpus_of_an_earlier_run_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let config = format!("--config={}", path.display());
        let with = ["train", "--corpus", "/c.txt", &config];
        check(&[&config], Some("movie-reviews"), &with);
        std::fs::write(&path, "[data]\ncorpus = []\n").unwrap();
        check(&[&config], Some("movie-reviews"), &with);
        std::fs::write(&path, "[data]\ncorpus = [\"mine.txt\"]\n").unwrap();
        check(&[&config], None, &["train", &config]);
    }

    #[test]
    fn a_name_must_follow_its_flag() {
        for args in [&["--corpus-name"][..], &["--corpus-name", "--seed"]] {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            assert!(TrainArguments::parse(&args).is_err(), "{args:?}");
        }
    }
}
