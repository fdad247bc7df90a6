//! `cargo xtask bundle`: one folder to carry to a GPU machine that has PyTorch but no Rust.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::checkout::{self, Checkout, shown};
use crate::error::{Error, Result};
use crate::program::{self, Artifact};
use crate::{console, corpus, setup};

/// What runs there, by name; the first is what one calls after the second.
const SCRIPTS: [(&str, &str); 4] = [
    ("run.sh", include_str!("run.sh")),
    ("first.sh", include_str!("first.sh")),
    ("environment.sh", include_str!("environment.sh")),
    ("checks.py", include_str!("checks.py")),
];

/// What a bundle may weigh.
const MOST_BYTES: u64 = 60 << 20;

/// How much of the corpus goes along: enough that no short run sees a text twice.
const CORPUS_BYTES: usize = 8 << 20;

/// The crates whose tests can run on a GPU and read no file of the checkout.
const TESTED: [&str; 2] = ["bert4rs-kernels", "bert4rs-tensor-core"];

/// Make one folder with programs, tests, benches, kernels and data for a GPU machine without Rust
///
/// There, ./first.sh makes the first checks on such a machine and stops at the first that fails;
/// ./run.sh finds PyTorch 2.11's libtorch, runs doctor, the GPU tests, the benches and the matrix,
/// and writes JSON. Under 60 MiB. The kernels are inside the programs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder to make; one made before is replaced
    #[arg(long, value_name = "DIR", default_value = "target/bundle")]
    out: PathBuf,
}

/// Where a program goes in the bundle; none for what stays behind.
fn place(built: &Artifact) -> Option<PathBuf> {
    let package = built.package.as_str();
    let is = |kind: &str| built.kinds.iter().any(|found| found == kind);
    match (built.name.as_str(), built.is_test) {
        ("bert4rs", false) => Some("bin/bert4rs".into()),
        ("bert4rs-xtask", false) => Some("bin/xtask".into()),
        (name, false) if is("bin") && package == "bert4rs-benches" => {
            Some(Path::new("benches").join(name))
        }
        (_, true) if is("test") && TESTED.contains(&package) => {
            Some(Path::new("tests").join(package.trim_start_matches("bert4rs-")))
        }
        _ => None,
    }
}

/// Makes the bundle.
pub(crate) fn run(checkout: &Checkout, args: &Args) -> Result<ExitCode> {
    setup::ensure(checkout)?;
    let out = checkout.root().join(&args.out);
    remove_old(&out)?;
    for built in program::build_all(checkout, &["--workspace", "--bins", "--tests"])? {
        if let Some(place) = place(&built) {
            copy_stripped(&built.executable, &out.join(place))?;
        }
    }
    let root = checkout.root();
    for folder in ["benches/matrix", "benches/peers"] {
        copy_folder(&root.join(folder), &out.join(folder))?;
    }
    // By this file xtask knows a checkout; it builds nothing there.
    write(&out.join(".cargo/config.toml"), b"")?;
    let text = corpus::find(corpus::DEFAULT)?.fetch()?;
    let text = fs::read(&text).map_err(Error::at(&text))?;
    write(&out.join("data/corpus.txt"), beginning(&text))?;
    write(&out.join("commit"), format!("{}\n", checkout::commit(root)).as_bytes())?;
    for (name, text) in SCRIPTS {
        let script = out.join(name);
        write(&script, text.as_bytes())?;
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&script, executable).map_err(Error::at(&script))?;
    }
    let size = size_of(&out)?;
    console::line(format_args!("bundle: {} ({})", out.display(), console::size(size)));
    if size > MOST_BYTES {
        let reason = format!("a bundle may weigh {}", console::size(MOST_BYTES));
        return Err(Error::Malformed { path: out, reason });
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes a bundle, and nothing that is none.
fn remove_old(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let is_empty = fs::read_dir(out).map_err(Error::at(out))?.next().is_none();
    let is_bundle = ["run.sh", "commit"].iter().all(|name| out.join(name).is_file());
    if !is_empty && !is_bundle {
        let reason = "it is there and is no bundle: name another folder, or remove it".to_owned();
        return Err(Error::Malformed { path: out.to_path_buf(), reason });
    }
    fs::remove_dir_all(out).map_err(Error::at(out))
}

fn copy_stripped(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(Error::at(folder))?;
    }
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(to).arg(from);
    let remedy = "install binutils (Debian: apt-get install binutils)";
    let status = strip
        .status()
        .map_err(|source| crate::fetch::missing_or_refused(&strip, source, remedy))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Child { command: shown(&strip), status: status.to_string() }),
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(Error::at(to))?;
    for entry in fs::read_dir(from).map_err(Error::at(from))?.flatten() {
        let path = to.join(entry.file_name());
        // Such as Python's cache of compiled scripts.
        if entry.path().is_dir() {
            continue;
        }
        fs::copy(entry.path(), &path).map_err(Error::at(&path))?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::at(folder))?;
    }
    fs::write(path, content).map_err(Error::at(path))
}

/// Whole documents, which blank lines part, from the beginning of a text.
fn beginning(text: &[u8]) -> &[u8] {
    if text.len() <= CORPUS_BYTES {
        return text;
    }
    let part = &text[..CORPUS_BYTES];
    let end = part.windows(2).rposition(|pair| pair == b"\n\n").map_or(part.len(), |at| at + 1);
    &part[..end]
}

fn size_of(folder: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder).map_err(Error::at(folder))?.flatten() {
        let path = entry.path();
        let found = entry.metadata().map_err(Error::at(&path))?;
        size += if found.is_dir() { size_of(&path)? } else { found.len() };
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_tests_and_benches_have_their_places() {
        let place_of = |package: &str, name: &str, kind: &str, is_test: bool| {
            place(&Artifact {
                package: package.to_owned(),
                name: name.to_owned(),
                kinds: vec![kind.to_owned()],
                is_test,
                executable: PathBuf::from("/t").join(name),
            })
        };
        for (package, name, kind, is_test, expected) in [
            ("bert4rs-cli", "bert4rs", "bin", false, Some("bin/bert4rs")),
            ("bert4rs-cli", "bert4rs", "bin", true, None),
            ("bert4rs-xtask", "bert4rs-xtask", "bin", false, Some("bin/xtask")),
            ("bert4rs-kernels", "it", "test", true, Some("tests/kernels")),
            ("bert4rs-models", "it", "test", true, None),
            ("bert4rs-benches", "kernels", "bench", true, None),
            ("bert4rs-benches", "bandwidth", "bin", false, Some("benches/bandwidth")),
        ] {
            let found = place_of(package, name, kind, is_test);
            assert_eq!(found, expected.map(PathBuf::from), "{package} {name} {kind}");
        }
    }

    #[test]
    fn a_text_is_cut_between_documents() {
        assert_eq!(beginning(b"a\n\nb\n"), b"a\n\nb\n");
        let mut long = b"one\n\n".repeat(CORPUS_BYTES / 5);
        long.extend_from_slice(b"cut here and not kept");
        let kept = beginning(&long);
        assert!(kept.len() <= CORPUS_BYTES && kept.ends_with(b"one\n"));
    }

    #[test]
    fn a_folder_that_is_no_bundle_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "mine").unwrap();
        assert!(remove_old(folder.path()).is_err());
        assert!(folder.path().join("thesis.tex").is_file());
    }

    #[test]
    fn the_scripts_have_no_error_that_a_shell_sees() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in SCRIPTS.iter().filter(|(name, _)| name.ends_with(".sh")) {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            assert!(Command::new("sh").arg("-n").arg(&path).status().unwrap().success(), "{name}");
        }
    }
}
