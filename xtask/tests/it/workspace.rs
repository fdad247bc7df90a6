//! The files of the workspace, as the tests that read them see them.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder that holds the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every file that is or will be in version control, relative to the root: all but what
/// `.gitignore` names. Asked of the folder and not of git, which a downloaded copy lacks.
pub(crate) fn files() -> Vec<PathBuf> {
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().flatten() {
            let path = folder.join(entry.file_name());
            if entry.file_name() == ".git" || is_ignored(&path, &ignored) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    assert!(files.len() > 20, "found only {} files below {}", files.len(), root().display());
    files
}

/// The two forms of pattern that our `.gitignore` uses: `/path` and `*.ending`.
fn is_ignored(path: &Path, patterns: &str) -> bool {
    let path = path.to_string_lossy();
    patterns.lines().map(str::trim).any(|pattern| match pattern.strip_prefix('*') {
        Some(ending) => path.ends_with(ending),
        None => pattern.strip_prefix('/').is_some_and(|name| path == name.trim_end_matches('/')),
    })
}

/// Fails with one line for each violation.
pub(crate) fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn ignored_paths_are_recognised() {
    let patterns = "/target\n/.torch\n*.profraw\n";
    assert!(is_ignored(Path::new("target"), patterns));
    assert!(is_ignored(Path::new("crates/a.profraw"), patterns));
    assert!(!is_ignored(Path::new("crates/target"), patterns));
    assert!(!is_ignored(Path::new("src"), patterns));
}
