//! Descriptions of Debian packages, from the translations that apt fetches.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{files_in, read_text};
use crate::checkout::shown;
use crate::console;
use crate::error::{Error, Result};
use crate::fetch::missing_or_refused;

pub(super) const APT_REMEDY: &str =
    "this corpus needs the apt of Debian or Ubuntu; take another corpus";

/// What apt's files are unpacked into, one after the other.
const TEXT: &str = "Translation-en";

/// How the items of a list begin.
const BULLETS: [char; 4] = ['*', '-', '+', '\u{b7}'];

/// Has apt fetch its lists into a folder of ours; the machine's own are neither read nor changed.
pub(super) fn fetch(folder: &Path) -> Result<()> {
    console::note("fetching the package lists of this machine's Debian; they change with updates");
    let lists = folder.join("lists");
    let mut update = Command::new("apt-get");
    run(apt_options(&mut update, folder)?.arg("update").stdin(Stdio::null()))?;

    let path = folder.join(TEXT);
    let text = File::create(&path).map_err(Error::at(&path))?;
    for list in files_in(&lists, |name| name.contains("Translation-en"))? {
        let out = text.try_clone().map_err(Error::at(&path))?;
        let mut unpack = Command::new("/usr/lib/apt/apt-helper");
        run(unpack.arg("cat-file").arg(list).stdout(out))?;
    }
    Ok(())
}

/// Has apt keep its lists and packages in `folder`.
pub(super) fn apt_options<'a>(apt: &'a mut Command, folder: &Path) -> Result<&'a mut Command> {
    let (lists, cache) = (folder.join("lists"), folder.join("cache"));
    for needed in [lists.join("partial"), cache.join("archives/partial")] {
        fs::create_dir_all(&needed).map_err(Error::at(&needed))?;
    }
    apt.args(["-qq", "-o", "Acquire::Languages=en", "-o", "APT::Sandbox::User=root"]);
    apt.arg("-o").arg(format!("Dir::State::Lists={}", lists.display()));
    Ok(apt.arg("-o").arg(format!("Dir::Cache={}", cache.display())))
}

pub(super) fn run(command: &mut Command) -> Result<()> {
    let status =
        command.status().map_err(|source| missing_or_refused(command, source, APT_REMEDY))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Child { command: shown(command), status: status.to_string() }),
    }
}

/// The descriptions of the fetched lists.
pub(super) fn read(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join(TEXT);
    let documents: Vec<String> = read_text(&path)?.split("\n\n").filter_map(description).collect();
    if documents.is_empty() {
        let reason = "apt's lists hold no English descriptions".to_owned();
        return Err(Error::Malformed { path, reason });
    }
    Ok(documents)
}

/// Title, paragraphs and list items of one stanza, each on one line. Lines of a paragraph begin
/// with one space, those of a list with more, and ` .` is a blank line.
fn description(stanza: &str) -> Option<String> {
    let mut lines = stanza.lines();
    let title = lines.by_ref().find_map(|line| line.strip_prefix("Description-en: "))?;
    let mut text = format!("{title}\n");
    let mut in_list = false;
    for line in lines.map_while(|line| line.strip_prefix(' ')) {
        let indented = line.starts_with(' ');
        let line = line.trim();
        if line == "." || (in_list && !indented) || (indented && line.starts_with(BULLETS)) {
            text.push('\n');
        }
        if line != "." {
            text += &format!("{line} ");
        }
        in_list = indented;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::tidy;

    #[test]
    fn a_stanza_becomes_title_paragraphs_and_list() {
        let stanza = "Package: 7zip\nDescription-md5: 302b\n\
             Description-en: 7-Zip file archiver\n 7-Zip is an archiver. Its\n features:\n\
             \x20 * High\n    compression\n  * Encryption\n .\n Note: no unRAR.\n";
        let expected = "7-Zip file archiver\n7-Zip is an archiver. Its features:\n\
             * High compression\n* Encryption\nNote: no unRAR.";
        assert_eq!(tidy(&description(stanza).unwrap()), expected);
    }

    #[test]
    fn a_stanza_in_another_language_is_passed_over() {
        assert_eq!(description("Package: a\nDescription-de: Ein Paket\n Text\n"), None);
    }
}
