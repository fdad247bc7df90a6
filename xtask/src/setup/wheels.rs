//! The wheels that hold libtorch 2.11.0, pinned: what `setup` fetches where none is installed.
//!
//! A wheel is a zip archive; its libraries and headers are unpacked, its Python code is not. All
//! go into one folder, in the layout that libtorch's RPATH (`$ORIGIN/../../nvidia/*/lib`) expects.

use std::env::consts::{ARCH, OS};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Lock, Manifest};
use crate::console;
use crate::error::{Error, Result};
use crate::fetch::{self, Archive, Registry};

/// The folder of the cache that the wheels are unpacked into.
const FOLDER: &str = "libtorch-2.11.0";

/// libtorch for both CPU and CUDA, the two libraries without which it does not even load, and
/// the headers that, beside the runtime's, a C++ file on CUDA's side of libtorch includes.
const CPU: [Archive; 4] = [
    wheel(
        "torch",
        "2.11.0",
        530_604_548,
        "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
    ),
    wheel(
        "nvidia-cuda-runtime",
        "13.0.96",
        2_243_632,
        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    ),
    wheel(
        "nvidia-cuda-cupti",
        "13.0.85",
        10_715_597,
        "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
    ),
    wheel(
        "nvidia-cuda-crt",
        "13.0.88",
        134_086,
        "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
    ),
];

/// The compiler of the kernels.
const NVRTC: Archive = wheel(
    "nvidia-cuda-nvrtc",
    "13.0.88",
    90_215_200,
    "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
);

/// What else `libtorch_cuda.so` needs to load: the versions that torch 2.11.0's metadata names,
/// those of cuda-toolkit 13.0.2 and five of its own.
const CUDA: [Archive; 13] = [
    wheel(
        "nvidia-cublas",
        "13.1.0.3",
        423_133_236,
        "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171",
    ),
    NVRTC,
    wheel(
        "nvidia-cufft",
        "12.0.0.61",
        214_085_489,
        "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
    ),
    wheel(
        "nvidia-cufile",
        "1.15.1.6",
        1_223_672,
        "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44",
    ),
    wheel(
        "nvidia-curand",
        "10.4.0.35",
        59_544_258,
        "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
    ),
    wheel(
        "nvidia-cusolver",
        "12.0.4.66",
        200_941_980,
        "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112",
    ),
    wheel(
        "nvidia-cusparse",
        "12.6.3.3",
        145_942_937,
        "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b",
    ),
    wheel(
        "nvidia-nvjitlink",
        "13.0.88",
        40_713_933,
        "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
    ),
    wheel(
        "nvidia-nvtx",
        "13.0.85",
        148_047,
        "4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4",
    ),
    wheel(
        "nvidia-cudnn-cu13",
        "9.19.0.56",
        366_066_321,
        "d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf",
    ),
    wheel(
        "nvidia-cusparselt-cu13",
        "0.8.0",
        169_884_119,
        "25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd",
    ),
    wheel(
        "nvidia-nccl-cu13",
        "2.28.9",
        196_493_177,
        "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
    ),
    wheel(
        "nvidia-nvshmem-cu13",
        "3.4.5",
        60_412_546,
        "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80",
    ),
];

const fn wheel(
    package: &'static str,
    version: &'static str,
    bytes: u64,
    sha256: &'static str,
) -> Archive {
    Archive { registry: Registry::Python, package, version, bytes, sha256 }
}

/// The `torch` folder of the fetched libtorch; fetches what is missing or damaged.
pub(crate) fn fetch(cache: &Cache, cuda: bool) -> Result<PathBuf> {
    let also = if cuda { CUDA.as_slice() } else { &[] };
    Ok(fetch_all(cache, &CPU.iter().chain(also).collect::<Vec<_>>())?.join("torch"))
}

/// The folder of NVRTC's libraries; fetches them if they are missing or damaged.
pub(crate) fn fetch_nvrtc(cache: &Cache) -> Result<PathBuf> {
    Ok(fetch_all(cache, &[&NVRTC])?.join("nvidia/cu13/lib"))
}

/// The folder that all wheels are unpacked into, `wheels` among them.
fn fetch_all(cache: &Cache, wheels: &[&Archive]) -> Result<PathBuf> {
    if OS != "linux" || ARCH != "x86_64" {
        return Err(Error::NoPackageForMachine { os: OS, arch: ARCH });
    }
    let root = cache.path(FOLDER);
    if !wheels.iter().all(|wheel| is_installed(wheel, &root)) {
        let lock = cache.lock()?;
        // Looked at again: another command may have fetched it while this one waited.
        for wheel in wheels.iter().filter(|wheel| !is_installed(wheel, &root)) {
            install(wheel, &root, cache, &lock)?;
        }
    }
    Ok(root)
}

fn manifest_path(wheel: &Archive, root: &Path) -> PathBuf {
    root.join("manifests").join(wheel.package)
}

fn is_installed(wheel: &Archive, root: &Path) -> bool {
    Manifest::holds(&manifest_path(wheel, root), wheel.sha256, root)
}

fn install(wheel: &Archive, root: &Path, cache: &Cache, lock: &Lock) -> Result<()> {
    let archive = wheel.fetch(cache, lock)?;
    console::note(format_args!("unpacking {} {}", wheel.package, wheel.version));
    let unpacked = cache.unfinished(lock)?.join(format!("{}.unpacked", wheel.package));
    let manifest = fetch::unzip(&archive, wheel.sha256, &unpacked, is_needed)?;
    for (_, name) in manifest.files() {
        let (from, to) = (unpacked.join(name), root.join(name));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(Error::at(folder))?;
        }
        sync_library(&from)?;
        fs::rename(&from, &to).map_err(Error::at(&to))?;
    }
    manifest.write(&manifest_path(wheel, root))?;
    fs::remove_dir_all(&unpacked).map_err(Error::at(&unpacked))?;
    fs::remove_file(&archive).map_err(Error::at(&archive))
}

/// Libraries to load and headers to build with; neither Python code nor libraries to link in.
fn is_needed(name: &str) -> bool {
    let part = match name.split('/').collect::<Vec<_>>()[..] {
        ["torch", part, _, ..] | ["nvidia", _, part, _, ..] => part,
        _ => return false,
    };
    match part {
        "lib" => name.contains(".so") && !name.ends_with("/libtorch_python.so"),
        "include" => true,
        _ => false,
    }
}

/// Puts a library on the disk before the manifest vouches for it. Headers are left to the file
/// system's own order: ten thousand waits would take a minute, and a lost one shows by its size.
fn sync_library(path: &Path) -> Result<()> {
    if path.to_string_lossy().contains(".so") {
        let file = File::open(path).map_err(Error::at(path))?;
        file.sync_all().map_err(Error::at(path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_headers_are_unpacked_and_nothing_else() {
        for needed in [
            "torch/lib/libtorch_cpu.so",
            "torch/lib/libgomp.so.1",
            "torch/include/ATen/ATen.h",
            "nvidia/cu13/lib/libcudart.so.13",
            "nvidia/cu13/include/cuda_fp8.h",
            "nvidia/nvshmem/lib/nvshmem_bootstrap_uid.so.3",
        ] {
            assert!(is_needed(needed), "{needed}");
        }
        for useless in [
            "torch/__init__.py",
            "torch/bin/protoc",
            "torch/lib/libtorch_python.so",
            "torch/share/cmake/Torch/TorchConfig.cmake",
            "nvidia/cu13/lib/libcudart_static.a",
            "nvidia/cu13/bin/ptxas",
            "torch-2.11.0.dist-info/METADATA",
        ] {
            assert!(!is_needed(useless), "{useless}");
        }
    }

    #[test]
    fn every_pin_is_a_whole_hash() {
        for wheel in CPU.iter().chain(&CUDA) {
            assert_eq!(wheel.sha256.len(), 64, "{}", wheel.package);
            assert!(wheel.sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{}", wheel.package);
        }
    }
}
