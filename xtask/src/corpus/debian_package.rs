//! Text in Debian packages: a dictionary, the kernel's documentation, RFCs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::debian::{APT_REMEDY, apt_options, run};
use super::read_text;
use crate::console;
use crate::error::{Error, Result};
use crate::fetch::missing_or_refused;

/// Has apt fetch packages into a folder of ours and unpacks them there; nothing is installed.
pub(super) fn fetch(folder: &Path, packages: &[&str], component: &str) -> Result<()> {
    console::note(format_args!("fetching {} from this machine's Debian", packages.join(", ")));
    fs::create_dir_all(folder).map_err(Error::at(folder))?;
    let sources = write_sources(folder, component)?;
    let from = format!("Dir::Etc::sourcelist={}", sources.display());
    let from = ["-o", &from, "-o", "Dir::Etc::sourceparts=/dev/null"];
    let mut update = Command::new("apt-get");
    run(apt_options(&mut update, folder)?.args(from).arg("update").stdin(Stdio::null()))?;
    let mut download = Command::new("apt-get");
    apt_options(&mut download, folder)?.args(from).arg("download").args(packages);
    run(download.current_dir(folder).stdin(Stdio::null()))?;
    for package in files_below(folder, &|path| has_ending(path, "deb"))? {
        let mut unpack = Command::new("dpkg-deb");
        run(unpack.arg("-x").arg(&package).arg(folder.join("unpacked")))?;
        fs::remove_file(&package).map_err(Error::at(&package))?;
    }
    Ok(())
}

/// Writes down where this machine's apt takes packages from, with `component` in place of its own.
fn write_sources(folder: &Path, component: &str) -> Result<PathBuf> {
    let line = format!("deb $(REPO_URI) $(RELEASE) {component}");
    let mut ask = Command::new("apt-get");
    ask.args(["indextargets", "--format", &line, "Created-By: Packages"]);
    let output = ask.stdin(Stdio::null()).output();
    let output = output.map_err(|source| missing_or_refused(&ask, source, APT_REMEDY))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: BTreeSet<&str> = text.lines().collect();
    let path = folder.join("sources.list");
    let text: String = lines.into_iter().map(|line| format!("{line}\n")).collect();
    fs::write(&path, text).map_err(Error::at(&path))?;
    Ok(path)
}

/// The entries of the dictionary.
pub(super) fn read_gcide(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join("unpacked/usr/share/dictd/gcide.dict.dz");
    Ok(entries(&unzipped(&path)?))
}

/// Entries begin at the left, after a blank line; their definitions are indented.
fn entries(text: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    let mut after_blank = true;
    for line in text.lines() {
        let begins = after_blank && line.starts_with(|c: char| !c.is_whitespace());
        after_blank = line.trim().is_empty();
        match entries.last_mut() {
            Some(entry) if !begins => *entry += line,
            _ => entries.push(line.to_owned()),
        }
        if let Some(entry) = entries.last_mut() {
            entry.push('\n');
        }
    }
    entries
}

/// The pages of the kernel's documentation, without its translations.
pub(super) fn read_linux(folder: &Path) -> Result<Vec<String>> {
    let is_page = |path: &Path| {
        let name = path.to_string_lossy();
        name.ends_with(".rst.txt") && !name.contains("/translations/")
    };
    let pages = files_below(&folder.join("unpacked/usr/share/doc"), &is_page)?;
    pages.iter().map(|path| read_text(path)).collect()
}

/// The RFCs, each a document. Debian leaves the short ones uncompressed.
pub(super) fn read_rfc(folder: &Path) -> Result<Vec<String>> {
    let is_rfc = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name.strip_prefix("rfc").map(|rest| rest.trim_start_matches(char::is_numeric));
        matches!(number, Some(".txt" | ".txt.gz"))
    };
    let all = files_below(&folder.join("unpacked/usr/share/doc"), &is_rfc)?;
    let read =
        |path: &PathBuf| if has_ending(path, "gz") { unzipped(path) } else { read_text(path) };
    all.iter().map(|path| read(path).map(|text| without_page_breaks(&text))).collect()
}

/// The text without the lines that printing put between pages: `Crocker [Page 1]` at a page's end,
/// and after the form feed `RFC 1 Host Software 7 April 1969`.
fn without_page_breaks(text: &str) -> String {
    let is_foot = |line: &str| line.contains("[Page ") && line.trim_end().ends_with(']');
    let pages = text.split('\u{c}').enumerate().map(|(number, page)| {
        let mut lines: Vec<&str> = page.lines().filter(|line| !is_foot(line)).collect();
        let head = lines.iter().position(|line| !line.trim().is_empty());
        if let Some(head) = head.filter(|&head| number > 0 && lines[head].starts_with("RFC ")) {
            lines.remove(head);
        }
        lines.join("\n")
    });
    pages.collect::<Vec<_>>().join("\n")
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found == ending)
}

/// What gzip makes of a file; old texts have a few broken bytes.
fn unzipped(path: &Path) -> Result<String> {
    fs::metadata(path).map_err(Error::at(path))?;
    let mut unzip = Command::new("gzip");
    let output = unzip.args(["-dcq", "--"]).arg(path).stdin(Stdio::null()).output();
    let output = output.map_err(Error::at(path))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Malformed { path: path.to_owned(), reason });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The files below a folder that `wanted` picks, sorted.
fn files_below(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::at(folder))? {
        let path = entry.map_err(Error::at(folder))?.path();
        let kind = fs::symlink_metadata(&path).map_err(Error::at(&path))?.file_type();
        if kind.is_dir() {
            found.extend(files_below(&path, wanted)?);
        } else if kind.is_file() && wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::tidy;

    #[test]
    fn entries_begin_at_the_left_after_a_blank_line() {
        let text =
            "A \\A\\\n   The first letter.\n\n   2. (Mus.) A tone.\n\nAa \\Aa\\, n.\n   Lava.\n";
        let found: Vec<String> = entries(text).iter().map(|entry| tidy(entry)).collect();
        let expected = ["A \\A\\\nThe first letter.\n2. (Mus.) A tone.", "Aa \\Aa\\, n.\nLava."];
        assert_eq!(found, expected);
    }

    #[test]
    fn pages_are_found_at_any_depth_and_translations_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("unpacked/usr/share/doc/linux-doc-6.1/html/_sources");
        for (name, text) in
            [("a.rst.txt", "one"), ("b/c.rst.txt", "two"), ("translations/de/a.rst.txt", "eins")]
        {
            let path = base.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(read_linux(folder.path()).unwrap(), ["one", "two"]);
    }

    #[test]
    fn short_requests_for_comments_are_read_too_and_pages_joined() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("unpacked/usr/share/doc/RFC/unclassified");
        fs::create_dir_all(&base).unwrap();
        for (name, text) in [
            ("rfc10.txt", "one"),
            ("rfc-index.txt", "no document"),
            ("rfc11.html", "no text"),
            ("rfc9.txt", "a\n\nCrocker        [Page 1]\n\u{c}\nRFC 9   Notes   April 1969\n\nb\n"),
        ] {
            fs::write(base.join(name), text).unwrap();
        }
        let mut gzip = Command::new("gzip");
        fs::write(base.join("rfc8.txt"), "long").unwrap();
        assert!(gzip.arg(base.join("rfc8.txt")).status().unwrap().success());
        let found = read_rfc(folder.path()).unwrap();
        let tidied: Vec<String> = found.iter().map(|text| tidy(text)).collect();
        assert_eq!(tidied, ["one", "long", "a\nb"]);
    }
}
