//! Compiles the C++ shim against libtorch's headers and makes libtorch loadable for
//! whatever cargo runs: programs, tests and doc tests.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    if env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() {
        return Ok(());
    }
    let include = part_of_libtorch("LIBTORCH_INCLUDE", "include", "ATen/ATen.h")?;
    let lib = part_of_libtorch("LIBTORCH_LIB", "lib", "libtorch_cpu.so")?;
    // `setup` rewrites this list when a folder of links comes to lead to another libtorch.
    let list = lib.with_file_name("links");
    if list.is_file() {
        println!("cargo:rerun-if-changed={}", list.display());
    }
    compile_shim(&include);
    compile_cuda_shim(&include)?;
    let real = fs::canonicalize(lib.join("libtorch_cpu.so"))?;
    let real = real.parent().unwrap_or(&lib);
    let loadable = link_libraries(&lib, real)?;
    // Cargo puts a search path below the target folder on the loader's path of all it runs.
    println!("cargo:rustc-link-search=native={}", loadable.display());
    // The program links an rpath to the real place, so that it also starts without cargo.
    println!("cargo:library_dir={}", real.display());
    Ok(())
}

/// A folder of libtorch, found as torch-sys finds it: by a variable of its own, else by
/// `LIBTORCH`. `file` shows that it is one.
fn part_of_libtorch(own: &str, folder: &str, file: &str) -> Result<PathBuf, Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed={own}");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    const WHAT_TO_DO: &str = "run `cargo xtask setup` in a checkout of bert4rs, with `--here DIR` \
                              for a project of your own: it finds or fetches libtorch 2.11.0";
    let torch = env::var_os(own).or_else(|| env::var_os("LIBTORCH"));
    let torch = PathBuf::from(torch.ok_or(format!("LIBTORCH is not set: {WHAT_TO_DO}"))?);
    let path = torch.join(folder);
    match path.join(file).is_file() {
        true => Ok(path),
        false => Err(format!("{} has no {folder}/{file}: {WHAT_TO_DO}", torch.display()).into()),
    }
}

/// A compiler of C++ on libtorch's headers.
fn compiler(include: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .pic(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .flag(format!("-isystem{}", include.display()))
        .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()))
        .flag("-Wno-unused-parameter");
    build
}

/// Makes the library that needs CUDA's headers to be built, and libtorch's CUDA half to be loaded;
/// an empty file where the headers are not there.
fn compile_cuda_shim(include: &Path) -> Result<(), Box<dyn Error>> {
    let library = PathBuf::from(env::var("OUT_DIR")?).join("cuda_shim.so");
    // Wheels put them beside libtorch's package; a toolkit has them here.
    let beside = fs::canonicalize(include)?.join("../../nvidia/cu13/include");
    let folders = [beside, PathBuf::from("/usr/local/cuda/include")];
    // Cargo would take one that is not there for changed, and build all again each time.
    folders
        .iter()
        .filter(|folder| folder.is_dir())
        .for_each(|folder| println!("cargo:rerun-if-changed={}", folder.display()));
    let has_all = |folder: &&PathBuf| {
        ["cuda_runtime_api.h", "crt/host_defines.h"].iter().all(|name| folder.join(name).is_file())
    };
    let Some(headers) = folders.iter().find(has_all) else {
        return Ok(fs::write(library, [])?);
    };
    let mut build = compiler(include);
    build.flag(format!("-isystem{}", headers.display()));
    build.cargo_metadata(false).debug(false);
    let objects = build.file("csrc/cuda/graph.cpp").opt_level(1).try_compile_intermediates()?;
    let status = build
        .get_compiler()
        .to_command()
        .args(["-shared", "-s"])
        .args(&objects)
        .arg("-o")
        .arg(&library)
        .status()?;
    if status.success() { Ok(()) } else { Err("linking the CUDA shim failed".into()) }
}

fn compile_shim(include: &Path) {
    // The folder: all that `unity.cpp` includes.
    println!("cargo:rerun-if-changed=csrc");
    // Thin wrappers gain nothing from more.
    compiler(include)
        .include("csrc")
        .define("USE_C10D_GLOO", None)
        .file("csrc/unity.cpp")
        .opt_level(1)
        .compile("bert4rs_shim");
}

/// Links every library of `lib`, and of the wheels beside the `real` place, into a folder below
/// the target folder.
fn link_libraries(lib: &Path, real: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let loadable = PathBuf::from(env::var("OUT_DIR")?).join("lib");
    if loadable.exists() {
        fs::remove_dir_all(&loadable)?;
    }
    fs::create_dir_all(&loadable)?;
    let wheels = fs::read_dir(real.join("../../nvidia")).into_iter().flatten().flatten();
    let wheels = wheels.map(|wheel| wheel.path().join("lib")).filter(|lib| lib.is_dir());
    for folder in [lib.to_path_buf()].into_iter().chain(wheels) {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let link = loadable.join(entry.file_name());
            if !link.exists() {
                std::os::unix::fs::symlink(fs::canonicalize(entry.path())?, link)?;
            }
        }
    }
    Ok(loadable)
}
