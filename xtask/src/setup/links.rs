//! `.torch`, the folder of links that the build reads: made so that no build ever sees half of it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{EXPECTED, Libtorch, libraries};
use crate::cache::{Manifest, replace_file};
use crate::error::{Error, Result};

/// Lists the links and the sizes of what they lead to.
const MANIFEST: &str = "links";

/// Stands in for the real `libtorch.so`, which would pull in the CUDA libraries.
const LINKER_SCRIPT: (&str, &[u8]) = ("libtorch.so", b"INPUT(libtorch_cpu.so)\n");

/// A header that every libtorch has, looked at to know that the link to them leads somewhere.
const HEADER: &str = "include/ATen/ATen.h";

/// The libtorch that `.torch` leads to, if every link leads to the whole file it was made for.
pub(crate) fn target(links: &Path) -> Option<PathBuf> {
    let manifest = links.join(MANIFEST);
    let text = fs::read_to_string(&manifest).ok()?;
    let pin = text.lines().next()?;
    let torch = pin.strip_prefix(EXPECTED)?.trim_start();
    Manifest::holds(&manifest, pin, links).then(|| PathBuf::from(torch))
}

/// Makes `.torch` lead to a libtorch; returns how many libraries it links.
///
/// Each entry is replaced by renaming, so that builds which run meanwhile see the old or the new
/// one. What is already right keeps its time stamp, so that nothing is built again.
pub(crate) fn write(links: &Path, libtorch: &Libtorch) -> Result<usize> {
    let torch = &libtorch.torch;
    let libraries = libraries::of_cpu(torch)?.map_err(|missing| Error::UnusableLibtorch {
        origin: libtorch.origin,
        path: torch.clone(),
        reason: missing.to_string(),
    })?;
    let lib = links.join("lib");
    fs::create_dir_all(&lib).map_err(Error::at(&lib))?;
    let list = links.join(MANIFEST);
    if target(links).as_ref() != Some(torch) {
        // Whoever interrupts the change leaves no list, and so nothing that looks right.
        remove_if_there(&list).map_err(Error::at(&list))?;
    }

    let mut manifest = Manifest::new(&format!("{EXPECTED} {}", torch.display()));
    let mut names = BTreeSet::from([OsString::from(LINKER_SCRIPT.0)]);
    for library in &libraries {
        let Some(name) = library.file_name() else { continue };
        let size = fs::metadata(library).map_err(Error::at(library))?.len();
        link(links, &lib.join(name), library)?;
        manifest.add(Path::new("lib").join(name), size);
        names.insert(name.to_owned());
    }
    link(links, &links.join("include"), &torch.join("include"))?;
    let header = torch.join(HEADER);
    let size = fs::metadata(&header).map_err(Error::at(&header))?.len();
    manifest.add(PathBuf::from(HEADER), size);
    for (name, content) in [
        ("build-version", format!("{EXPECTED}\n").as_bytes()),
        (&*format!("lib/{}", LINKER_SCRIPT.0), LINKER_SCRIPT.1),
    ] {
        file(links, &links.join(name), content)?;
        manifest.add(PathBuf::from(name), content.len() as u64);
    }
    remove_others(&lib, &names)?;
    manifest.write(&list)?;
    Ok(libraries.len())
}

fn link(links: &Path, path: &Path, target: &Path) -> Result<()> {
    if fs::read_link(path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    // Not beside the entry: whoever lists `lib` must not see it.
    let fresh = fresh(links);
    let replace = || {
        remove_if_there(&fresh)?;
        symlink(target, &fresh)?;
        fs::rename(&fresh, path)
    };
    replace().map_err(Error::at(path))
}

fn file(links: &Path, path: &Path, content: &[u8]) -> Result<()> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if !is_link && fs::read(path).is_ok_and(|found| found == content) {
        return Ok(());
    }
    let fresh = fresh(links);
    replace_file(&fresh, content)?;
    fs::rename(&fresh, path).map_err(Error::at(path))
}

fn fresh(links: &Path) -> PathBuf {
    links.join(format!("new.{}", std::process::id()))
}

fn remove_others(lib: &Path, names: &BTreeSet<OsString>) -> Result<()> {
    let entries = fs::read_dir(lib).map_err(Error::at(lib))?;
    for entry in entries.flatten().filter(|entry| !names.contains(&entry.file_name())) {
        remove_if_there(&entry.path()).map_err(Error::at(&entry.path()))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake_libtorch(folder: &Path) -> Libtorch {
        let torch = folder.join("torch");
        fs::create_dir_all(torch.join("lib")).unwrap();
        fs::create_dir_all(torch.join("include/ATen")).unwrap();
        fs::write(torch.join(HEADER), "// ATen").unwrap();
        let program = std::env::current_exe().unwrap();
        fs::copy(program, torch.join("lib/libtorch_cpu.so")).unwrap();
        Libtorch { torch, origin: "the test" }
    }

    #[test]
    fn links_lead_to_the_libtorch_until_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let libtorch = fake_libtorch(folder.path());
        let links = folder.path().join(".torch");
        assert_eq!(target(&links), None);
        write(&links, &libtorch).unwrap();
        assert_eq!(target(&links).as_ref(), Some(&libtorch.torch));
        assert_eq!(fs::read(links.join("build-version")).unwrap(), b"2.11.0\n");

        fs::write(libtorch.torch.join("lib/libtorch_cpu.so"), "cut short").unwrap();
        assert_eq!(target(&links), None);
    }

    #[test]
    fn what_is_already_right_is_left_alone_and_what_is_old_goes() {
        let folder = tempfile::tempdir().unwrap();
        let libtorch = fake_libtorch(folder.path());
        let links = folder.path().join(".torch");
        write(&links, &libtorch).unwrap();
        let times = || {
            let time = |name| fs::metadata(links.join(name)).unwrap().modified().unwrap();
            ["lib/libtorch.so", "build-version"].map(time)
        };
        let before = times();

        fs::write(links.join("lib/libold.so"), "").unwrap();
        fs::remove_file(links.join("include")).unwrap();
        symlink("/nowhere", links.join("include")).unwrap();
        assert_eq!(target(&links), None);
        write(&links, &libtorch).unwrap();
        assert_eq!(target(&links).as_ref(), Some(&libtorch.torch));
        assert!(!links.join("lib/libold.so").exists());
        assert_eq!(times(), before);

        let list = || fs::metadata(links.join(MANIFEST)).unwrap().modified().unwrap();
        let before = list();
        write(&links, &libtorch).unwrap();
        assert_eq!(list(), before, "what is right is not listed again");
    }
}
