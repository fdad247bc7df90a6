//! Kernels run on the CPU, for tests on machines without a GPU: the CUDA C sources, compiled as
//! C++ with `emulator.h`.

#![expect(unsafe_code, reason = "calls of functions compiled at run time")]

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use libloading::os::unix::{Library, RTLD_NOW};

use super::launch::KernelLaunch;
use super::source::KernelSource;

const HEADER: &str = include_str!("emulator.h");
const MATRIX: &str = include_str!("emulator_matrix.h");

type Run = unsafe extern "C" fn(*const c_int, c_int, *const *mut c_void);

/// Launches with more blocks, and more launches of a kernel, run without sanitizers, under which
/// they would take a hundred times as long.
const MOST_SANITIZED: (u32, u32) = (4, 6);

/// What was compiled so far.
#[derive(Default)]
struct State {
    /// By the source's name, without sanitizers and with them.
    libraries: HashMap<(&'static str, bool), Library>,
    /// Launches of each kernel under sanitizers.
    sanitized: HashMap<String, u32>,
}

impl State {
    /// The compiler's options for the sanitizers that `cargo xtask test` asks for, whose library is
    /// then preloaded; none for most launches.
    fn sanitizers(&mut self, launch: &KernelLaunch) -> Vec<String> {
        let Ok(names) = std::env::var("BERT4RS_SANITIZE") else { return Vec::new() };
        let (most_blocks, most_launches) = MOST_SANITIZED;
        if launch.grid.0 * launch.grid.1 > most_blocks {
            return Vec::new();
        }
        let count = self.sanitized.entry(launch.kernel.to_string()).or_default();
        *count += 1;
        if *count > most_launches {
            return Vec::new();
        }
        vec![format!("-fsanitize={names}"), "-fno-sanitize-recover=all".into(), "-g".into()]
    }
}

/// Runs a launch. The arguments are as [`KernelLaunch::run`] gives them to the driver.
///
/// # Safety
/// As of [`KernelLaunch::run`], with memory of the CPU.
pub(super) unsafe fn run(launch: &KernelLaunch, args: &[*mut c_void]) {
    // One at a time: blocks share what the program has once.
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    let mut state = STATE.get_or_init(Mutex::default).lock().unwrap();
    let options = state.sanitizers(launch);
    let key = (launch.source.name, options.is_empty());
    let library = state.libraries.entry(key).or_insert_with(|| compile(launch.source, &options));
    let size = [launch.grid.0 as c_int, launch.grid.1 as c_int];
    let name = format!("emulate_{}", launch.kernel);
    // SAFETY: EMULATE of emulator.h makes functions of this type; the rest is the caller's promise.
    unsafe {
        let run = library.get::<Run>(name.as_bytes()).unwrap();
        run(size.as_ptr(), launch.block as c_int, args.as_ptr());
    }
}

fn cpp(args: &[&str], folder: &std::path::Path) -> String {
    let mut command = Command::new("c++");
    // A sanitizer's library may be preloaded into this process.
    command.args(args).current_dir(folder).env_remove("LD_PRELOAD");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn compile(source: &KernelSource, sanitizers: &[String]) -> Library {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("{HEADER}\n{}", without_ptx(source.whole()));
    let path = folder.path().join("kernels.cc");
    std::fs::write(&path, &text).unwrap();
    let expanded = cpp(&["-std=c++20", "-E", "-P", "kernels.cc"], folder.path());
    let exports: String = kernels(&expanded).iter().map(|k| format!("EMULATE({k})\n")).collect();
    std::fs::write(&path, text + "\n" + &exports).unwrap();
    let options = "-std=c++20 -O1 -w -ffp-contract=off -fPIC -shared -pthread kernels.cc \
                   -o kernels.so";
    let options = options.split_whitespace().chain(sanitizers.iter().map(String::as_str));
    cpp(&options.collect::<Vec<_>>(), folder.path());
    // SAFETY: our own code, without initialisers but those of C++ itself.
    unsafe { Library::open(Some(folder.path().join("kernels.so")), RTLD_NOW) }.unwrap()
}

/// The names of the kernels in a source without macros.
fn kernels(expanded: &str) -> Vec<&str> {
    let starts = expanded.split("extern \"C\"").skip(1);
    let names = starts.filter_map(|text| {
        let name = text.trim_start().strip_prefix("void")?.split('(').next()?.trim();
        (!name.starts_with('_')).then_some(name)
    });
    names.collect()
}

/// `text` with what gemm.cu does in PTX replaced by `emulator_matrix.h`.
fn without_ptx(text: String) -> String {
    const FIRST: &str = "__device__ __forceinline__ u32 shared_address";
    const AFTER: &str = "// 128 rows from `row` on";
    let (Some(first), Some(after)) = (text.find(FIRST), text.find(AFTER)) else { return text };
    let waits = text[after..].lines().filter(|line| !line.trim_start().starts_with("asm volatile"));
    let kept: String = waits.map(|line| format!("{line}\n")).collect();
    format!("{}{MATRIX}\n{kept}", &text[..first])
}
