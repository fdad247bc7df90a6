//! The libtorch folders that may already be there: named, local, or of an installed PyTorch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::libraries::{self, Missing};
use super::{EXPECTED, Libtorch};
use crate::checkout::Checkout;
use crate::console;
use crate::error::{Error, Result};

/// A folder that the user chose. It is used or it is an error; it is never passed over.
pub(crate) struct Chosen {
    pub(crate) origin: &'static str,
    pub(crate) path: PathBuf,
}

/// The user's choice: the variable first, then the folder in the checkout.
pub(crate) fn chosen(checkout: &Checkout) -> Option<Chosen> {
    if let Some(path) = checkout.user_libtorch() {
        return Some(Chosen { origin: "the variable LIBTORCH", path });
    }
    let path = checkout.root().join(".libtorch");
    path.exists().then_some(Chosen { origin: "the folder .libtorch of this checkout", path })
}

impl Chosen {
    /// The folder with `lib` and `include`: the chosen one, or the one a zip unpacks into it.
    pub(crate) fn torch(&self) -> Option<PathBuf> {
        ["", "libtorch", "torch"]
            .iter()
            .map(|below| self.path.join(below))
            .find(|torch| torch.join("lib/libtorch_cpu.so").is_file())
            .and_then(|torch| fs::canonicalize(torch).ok())
    }

    /// Checks that the chosen folder can be built with.
    pub(crate) fn open(self, cuda: bool) -> Result<Libtorch> {
        let unusable = |path: &Path, reason: String| Error::UnusableLibtorch {
            origin: self.origin,
            path: path.to_path_buf(),
            reason,
        };
        let torch = self.torch().ok_or_else(|| {
            let reason = "it holds no lib/libtorch_cpu.so; unpack a libtorch 2.11.0 into it";
            unusable(&self.path, reason.to_owned())
        })?;
        if !torch.join("include/ATen/ATen.h").is_file() {
            return Err(unusable(&torch, "it holds no include/ATen/ATen.h".to_owned()));
        }
        let found = version(&torch).ok_or_else(|| {
            unusable(&torch, "it does not tell its version (build-version, version.py)".to_owned())
        })?;
        if !is_expected(&found) {
            let Chosen { origin, .. } = self;
            return Err(Error::WrongVersion { origin, path: torch, found, expected: EXPECTED });
        }
        match libraries::check(&torch, cuda)? {
            Ok(()) => Ok(Libtorch { torch, origin: self.origin }),
            Err(missing) => Err(unusable(&torch, missing.to_string())),
        }
    }
}

/// The version that a libtorch folder tells of itself, such as `2.11.0+cpu`.
fn version(torch: &Path) -> Option<String> {
    if let Ok(text) = fs::read_to_string(torch.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    if let Ok(text) = fs::read_to_string(torch.join("version.py")) {
        let assigned = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
        return Some(assigned.trim_matches(['\'', '"', ' ']).to_owned());
    }
    let headers = ["include/torch/headeronly/version.h", "include/torch/version.h"];
    let text = headers.iter().find_map(|name| fs::read_to_string(torch.join(name)).ok())?;
    version_of_header(&text)
}

fn version_of_header(text: &str) -> Option<String> {
    let part = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("#define "));
        lines.find_map(|line| line.strip_prefix(name)).map(str::trim)
    };
    let (major, minor) = (part("TORCH_VERSION_MAJOR ")?, part("TORCH_VERSION_MINOR ")?);
    Some(format!("{major}.{minor}.{}", part("TORCH_VERSION_PATCH ")?))
}

fn is_expected(version: &str) -> bool {
    version.split('+').next() == Some(EXPECTED)
}

/// What Python knows of an installed PyTorch, without importing it: version and folder.
const ASK_PYTHON: &str = "\
import importlib.metadata, importlib.util
spec = importlib.util.find_spec('torch')
if spec and spec.submodule_search_locations:
    print(importlib.metadata.version('torch'))
    print(list(spec.submodule_search_locations)[0])
";

/// The libtorch of an installed PyTorch; one that does not fit is passed over with a note.
pub(crate) fn installed(cuda: bool) -> Result<Option<Libtorch>> {
    let mut python = Command::new("python3");
    python.args(["-c", ASK_PYTHON]).stdin(Stdio::null());
    // Python looks for modules in the working folder first.
    let Ok(answer) = python.current_dir("/").output() else { return Ok(None) };
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let mut lines = answer.lines();
    let (Some(version), Some(path)) = (lines.next(), lines.next()) else { return Ok(None) };
    let passed_over = |reason: &dyn std::fmt::Display| {
        console::note(format_args!("not using the installed PyTorch {version} ({path}): {reason}"));
        Ok(None)
    };
    if !is_expected(version) {
        return passed_over(&format_args!("bert4rs needs {EXPECTED}"));
    }
    let Ok(torch) = fs::canonicalize(path) else { return Ok(None) };
    if !torch.join("lib/libtorch_cpu.so").is_file() || !torch.join("include/ATen/ATen.h").is_file()
    {
        return passed_over(&"its libraries or headers are not in that folder");
    }
    match libraries::check(&torch, cuda)? {
        Ok(()) => Ok(Some(Libtorch { torch, origin: "the installed PyTorch" })),
        Err(missing @ Missing { .. }) => passed_over(&missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_in(file: &str, content: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        version(folder.path())
    }

    #[test]
    fn the_version_is_read_from_each_kind_of_folder() {
        assert_eq!(version_in("build-version", "2.11.0+cpu\n").unwrap(), "2.11.0+cpu");
        let python = "import x\n__version__ = '2.10.1+cu130'\ndebug = False\n";
        assert_eq!(version_in("version.py", python).unwrap(), "2.10.1+cu130");
        let header = "#pragma once\n#define TORCH_VERSION_MAJOR 2\n\
             #define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 0\n";
        assert_eq!(version_in("include/torch/version.h", header).unwrap(), "2.11.0");
        assert_eq!(version_in("readme", "2.11.0"), None);
    }

    #[test]
    fn only_the_pinned_version_is_expected() {
        assert!(is_expected("2.11.0") && is_expected("2.11.0+cu130"));
        assert!(!is_expected("2.11.1") && !is_expected("2.11") && !is_expected(""));
    }
}
