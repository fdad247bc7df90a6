//! Compiles the C++ shim against libtorch's headers and makes libtorch loadable for
//! whatever cargo runs: programs, tests and doc tests.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

const SHIM_SOURCES: &[&str] = &[
    "csrc/cpu_allocator.cpp",
    "csrc/custom_function.cpp",
    "csrc/device.cpp",
    "csrc/library.cpp",
    "csrc/profiler.cpp",
    "csrc/random_state.cpp",
    "csrc/stream.cpp",
    "csrc/varlen.cpp",
];

fn main() -> Result<(), Box<dyn Error>> {
    let torch = PathBuf::from(variable("LIBTORCH_INCLUDE")?);
    if !torch.join("include").is_dir() {
        return Err(format!(
            "no libtorch at {}: run `cargo xtask setup` first, it finds or fetches one",
            torch.display()
        )
        .into());
    }
    // `setup` rewrites this list when .torch comes to lead to another libtorch.
    println!("cargo:rerun-if-changed={}", torch.join("links").display());
    let lib = PathBuf::from(variable("LIBTORCH_LIB")?).join("lib");
    compile_shim(&torch.join("include"));
    compile_cuda_shim(&torch.join("include"))?;
    let loadable = link_libraries(&lib)?;
    // Cargo puts a search path below the target folder on the loader's path of all it runs.
    println!("cargo:rustc-link-search=native={}", loadable.display());
    // The program links an rpath to the real place, so that it also starts without cargo.
    let real = fs::canonicalize(lib.join("libtorch_cpu.so"))?;
    if let Some(folder) = real.parent() {
        println!("cargo:library_dir={}", folder.display());
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).map_err(|_| {
        format!("{name} is not set: build inside the workspace, whose .cargo/config.toml sets it")
            .into()
    })
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
    let source = "csrc/cuda/graph.cpp";
    println!("cargo:rerun-if-changed={source}");
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
    let objects = build.file(source).try_compile_intermediates()?;
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
    for source in SHIM_SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    println!("cargo:rerun-if-changed=csrc/shim.h");
    compiler(include).files(SHIM_SOURCES).compile("bert4rs_shim");
}

/// Links every library of `lib` into a folder below the target folder.
fn link_libraries(lib: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let loadable = PathBuf::from(env::var("OUT_DIR")?).join("lib");
    fs::create_dir_all(&loadable)?;
    for entry in fs::read_dir(lib)? {
        let entry = entry?;
        let target = loadable.join(entry.file_name());
        if target.symlink_metadata().is_ok() {
            fs::remove_file(&target)?;
        }
        std::os::unix::fs::symlink(fs::canonicalize(entry.path())?, &target)?;
    }
    Ok(loadable)
}
