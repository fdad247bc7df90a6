//! Patterns and lists of paths.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::text::read_text;

/// What begins the path of a list.
const LIST: char = '@';

/// The paths that `paths` stand for: each is one, a pattern, or a list of both.
pub(super) fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        match path.to_str().and_then(|path| path.strip_prefix(LIST)) {
            Some(list) => expand_list(Path::new(list), &mut all)?,
            None => expand_pattern(path, &mut all)?,
        }
    }
    Ok(all)
}

fn expand_list(list: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    let before = all.len();
    let folder = list.parent().unwrap_or(Path::new(""));
    for line in read_text(list)?.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with(LIST) {
            let reason = format!("names the list {line:?}; a list holds paths and patterns alone");
            return Err(Error::corpus(list, reason));
        }
        expand_pattern(&folder.join(line), all)?;
    }
    match all.len() {
        count if count == before => {
            Err(Error::corpus(list, "is a list without a path; expected a path a line"))
        }
        _ => Ok(()),
    }
}

fn expand_pattern(path: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']));
    let Some(pattern) = pattern.filter(|_| fs::symlink_metadata(path).is_err()) else {
        all.push(path.to_owned());
        return Ok(());
    };
    // A hidden file is meant only where the pattern says so, as in a shell.
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let matches = glob::glob_with(pattern, options)
        .map_err(|error| Error::corpus(path, format!("is no pattern: {error}")))?;
    let before = all.len();
    for found in matches {
        let io = |error: glob::GlobError| {
            let at = error.path().to_owned();
            Error::io("list the corpus folder", &at)(error.into())
        };
        all.push(found.map_err(io)?);
    }
    if all.len() == before {
        let reason = "there is no such file, and as a pattern it matches none";
        return Err(Error::corpus(path, reason));
    }
    Ok(())
}
