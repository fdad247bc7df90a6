//! Which files make libtorch loadable: the libraries it needs, followed from file to file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::elf;
use crate::error::Result;

/// Where a CUDA toolkit outside Python puts its libraries.
const CUDA_TOOLKIT: &str = "/usr/local/cuda/lib64";

/// Names that begin so belong to libtorch or to NVIDIA; all others to the system.
const NOT_OF_THE_SYSTEM: [&str; 6] = ["libtorch", "libc10", "libcu", "libnv", "libnccl", "libmkl"];

/// The driver, which comes with the machine.
const DRIVER: &str = "libcuda.so.1";

/// A library that is needed and not to be found.
#[derive(Debug)]
pub(crate) struct Missing {
    library: String,
    needed_by: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Missing { library, needed_by } = self;
        write!(
            f,
            "{needed_by} needs {library}, which is neither beside it, in ../nvidia/*/lib, \
             {CUDA_TOOLKIT} nor LD_LIBRARY_PATH"
        )
    }
}

/// What the build links to: the CPU libraries alone. The program loads CUDA's when it starts on
/// a machine that has a driver, so that one program serves both.
pub(crate) fn of_cpu(torch: &Path) -> Result<std::result::Result<Vec<PathBuf>, Missing>> {
    closure(torch, &["libtorch_cpu.so"])
}

/// Whether the libraries for the CPU are all there, and with `cuda` those for a GPU.
pub(crate) fn check(torch: &Path, cuda: bool) -> Result<std::result::Result<(), Missing>> {
    let roots: &[&str] = match cuda {
        true => &["libtorch_cpu.so", "libtorch_cuda.so", "libtorch_cuda_linalg.so"],
        false => &["libtorch_cpu.so"],
    };
    Ok(closure(torch, roots)?.map(drop))
}

/// `roots` and everything they need that the system does not bring, sorted by name.
fn closure(torch: &Path, roots: &[&str]) -> Result<std::result::Result<Vec<PathBuf>, Missing>> {
    let beside = [torch.join("lib")];
    let everywhere = search_path(torch);
    let mut found = BTreeMap::new();
    let mut open: Vec<(String, String)> =
        roots.iter().map(|root| ((*root).to_owned(), "bert4rs".to_owned())).collect();
    while let Some((library, needed_by)) = open.pop() {
        if found.contains_key(&library) || library == DRIVER {
            continue;
        }
        let of_system = !NOT_OF_THE_SYSTEM.iter().any(|prefix| library.starts_with(prefix));
        // A compiler's runtime in LD_LIBRARY_PATH is not libtorch's business.
        let folders = if of_system { &beside[..] } else { &everywhere[..] };
        let path = folders.iter().map(|folder| folder.join(&library)).find(|path| path.is_file());
        match path {
            Some(path) => {
                let needs = elf::needed(&path)?;
                open.extend(needs.into_iter().map(|name| (name, library.clone())));
                found.insert(library, path);
            }
            None if of_system => {}
            None => return Ok(Err(Missing { library, needed_by })),
        }
    }
    Ok(Ok(found.into_values().collect()))
}

fn search_path(torch: &Path) -> Vec<PathBuf> {
    let mut folders = vec![torch.join("lib")];
    if let Some(Ok(vendors)) = torch.parent().map(|site| fs::read_dir(site.join("nvidia"))) {
        folders.extend(vendors.flatten().map(|vendor| vendor.path().join("lib")));
    }
    let variable = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    folders.extend(env::split_paths(&variable).filter(|folder| folder.is_absolute()));
    folders.push(PathBuf::from(CUDA_TOOLKIT));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder whose `libtorch_cpu.so` is this very program: a real file that needs only what
    /// the system has.
    fn fake_torch() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let lib = folder.path().join("torch/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::copy(env::current_exe().unwrap(), lib.join("libtorch_cpu.so")).unwrap();
        folder
    }

    #[test]
    fn the_system_brings_its_own_libraries() {
        let folder = fake_torch();
        let torch = folder.path().join("torch");
        let found = of_cpu(&torch).unwrap().unwrap();
        assert_eq!(found, [torch.join("lib/libtorch_cpu.so")]);
    }

    #[test]
    fn a_missing_library_is_named_with_who_needs_it() {
        let folder = fake_torch();
        let missing = check(&folder.path().join("torch"), true).unwrap().unwrap_err();
        assert!(missing.to_string().starts_with("bert4rs needs libtorch_cuda_linalg.so"));
    }
}
