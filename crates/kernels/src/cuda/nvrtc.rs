//! NVIDIA's run-time compiler, loaded when it is first needed.
//!
//! It needs no GPU and no driver: any machine that has the library can compile for any of them.

#![expect(unsafe_code, reason = "the border to NVRTC's C interface")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::OnceLock;

use bert4rs_tensor_core::{Error, Result, library};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

const OP: &str = "compile CUDA kernels";

/// How the name of the library begins, and that of the one that it looks for by name as it
/// compiles; CUDA's version follows.
const COMPILER: &str = "libnvrtc.so.";
const BUILTINS: &str = "libnvrtc-builtins.so.";

/// The versions whose headers and architectures the kernels need, the newest first: a driver takes
/// what a compiler of its own or an earlier version made, and libtorch brings the one that it was
/// built for.
const VERSIONS: [u32; 2] = [13, 12];

/// Where a CUDA toolkit outside Python puts its libraries.
const TOOLKIT: &str = "/usr/local/cuda/lib64";

type Program = *mut c_void;
/// 0 is success; `nvrtcGetErrorString` names the others.
type Status = c_int;

/// NVRTC's functions.
struct NvrtcFunctions {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ptx_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    ptx: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
}

/// A compiled source.
#[derive(Debug)]
pub struct Compiled {
    /// Machine code for the one architecture that the options name.
    pub cubin: Vec<u8>,
    /// The intermediate text that it was made from.
    pub ptx: Vec<u8>,
    /// What the compiler said: warnings, and ptxas's words where they were asked for.
    pub log: String,
}

/// Whether NVRTC can be loaded here; the error says where it was looked for.
///
/// # Errors
/// It can't.
pub fn available() -> Result<()> {
    functions().map(drop)
}

/// NVRTC's version, such as `(13, 0)`.
///
/// # Errors
/// NVRTC can't be loaded.
pub fn version() -> Result<(i32, i32)> {
    let functions = functions()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both pointers are to integers of this frame.
    let status = unsafe { (functions.version)(&mut major, &mut minor) };
    if status == 0 { Ok((major, minor)) } else { Err(failed(format!("NVRTC error {status}"))) }
}

/// Compiles `source`, called `name` in messages, with NVRTC's `options`, among them a real
/// architecture.
///
/// # Errors
/// NVRTC can't be loaded, or refuses the source: the error holds its words.
pub fn compile(name: &str, source: &str, options: &[String]) -> Result<Compiled> {
    let functions = functions()?;
    let text = |text: &str| {
        CString::new(text).map_err(|_| failed(format!("{name}: a NUL in the source or options")))
    };
    let (source, name_text) = (text(source)?, text(name)?);
    let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>>>()?;
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut handle = null_mut();
    // SAFETY: both strings end with NUL and outlive the call; no headers are passed.
    let status = unsafe {
        let (source, name) = (source.as_ptr(), name_text.as_ptr());
        (functions.create)(&mut handle, source, name, 0, null_mut(), null_mut())
    };
    if status != 0 {
        return Err(failed(format!("{name}: NVRTC error {status}")));
    }
    let program = Handle { functions, handle };
    // SAFETY: the program was created above; `pointers` are to strings that outlive the call.
    let status =
        unsafe { (functions.compile)(program.handle, pointers.len() as c_int, pointers.as_ptr()) };
    let log = program.bytes(functions.log_size, functions.log)?;
    let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
    if status != 0 {
        return Err(failed(format!("{name}: NVRTC error {status}:\n{log}")));
    }
    let cubin = program.bytes(functions.cubin_size, functions.cubin)?;
    let ptx = program.bytes(functions.ptx_size, functions.ptx)?;
    Ok(Compiled { cubin, ptx, log })
}

fn failed(message: String) -> Error {
    Error::Torch { op: OP.into(), message }
}

/// A program of NVRTC, destroyed when dropped.
struct Handle {
    functions: &'static NvrtcFunctions,
    handle: Program,
}

impl Handle {
    /// What a pair of functions, one for the size and one for the bytes, gives.
    fn bytes(
        &self,
        size: unsafe extern "C" fn(Program, *mut usize) -> Status,
        write: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ) -> Result<Vec<u8>> {
        let mut count = 0;
        // SAFETY: the program is alive, `count` is ours, and the second function writes as many
        // bytes as the first has said.
        let (bytes, status) = unsafe {
            let first = size(self.handle, &mut count);
            let mut bytes = vec![0u8; count];
            let second = write(self.handle, bytes.as_mut_ptr().cast());
            (bytes, if first != 0 { first } else { second })
        };
        if status == 0 { Ok(bytes) } else { Err(failed(format!("NVRTC error {status}"))) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created by `nvrtcCreateProgram` and destroyed only here.
        unsafe { (self.functions.destroy)(&mut self.handle) };
    }
}

fn functions() -> Result<&'static NvrtcFunctions> {
    static FUNCTIONS: OnceLock<std::result::Result<NvrtcFunctions, String>> = OnceLock::new();
    FUNCTIONS.get_or_init(load).as_ref().map_err(|reason| Error::Unsupported {
        what: "compiling CUDA kernels".into(),
        reason: reason.clone(),
    })
}

/// The folders to look into: those of the wheels beside libtorch, and a toolkit's.
fn folders() -> Vec<PathBuf> {
    let beside = library::folder().map(|torch| {
        let packages = torch.join("../../nvidia");
        vec![torch, packages.join("cu13/lib"), packages.join("cuda_nvrtc/lib")]
    });
    beside.into_iter().flatten().chain([PathBuf::from(TOOLKIT)]).collect()
}

fn load() -> std::result::Result<NvrtcFunctions, String> {
    let folders = folders();
    let mut tried = Vec::new();
    for Candidate { compiler, builtins } in candidates(&folders) {
        if let Some(builtins) = builtins {
            // NVRTC asks the loader for its builtins by bare name: loaded already, they are found.
            let _ = open(&builtins);
        }
        match open(&compiler).and_then(symbols) {
            Ok(functions) => return Ok(functions),
            Err(error) => tried.push(error),
        }
    }
    let list: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let versions = VERSIONS.map(|version| format!("{COMPILER}{version}")).join(" or ");
    Err(format!(
        "no {versions} in {} nor on the loader's path ({}); it comes with CUDA 12 or 13, with \
         PyTorch, and with `cargo xtask setup --cuda`",
        list.join(", "),
        tried.join("; ")
    ))
}

/// A compiler that may be here, with its builtins where those are known.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    compiler: PathBuf,
    builtins: Option<PathBuf>,
}

/// Those in `folders`, a nearer folder first, and last the loader's own.
fn candidates(folders: &[PathBuf]) -> Vec<Candidate> {
    let in_folder = |folder: &PathBuf| {
        VERSIONS.map(|version| {
            let compiler = folder.join(format!("{COMPILER}{version}"));
            let builtins = with_prefix(folder, &format!("{BUILTINS}{version}."));
            compiler.is_file().then_some(Candidate { compiler, builtins })
        })
    };
    let by_name = |version| {
        let compiler = PathBuf::from(format!("{COMPILER}{version}"));
        Candidate { compiler, builtins: None }
    };
    let found = folders.iter().flat_map(in_folder).flatten();
    found.chain(VERSIONS.map(by_name)).collect()
}

fn with_prefix(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut names = entries.flatten().map(|entry| entry.path());
    names.find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
}

fn open(path: &Path) -> std::result::Result<&'static Library, String> {
    // SAFETY: NVIDIA's libraries run only their own initialisers; they are never unloaded.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    library.map(|library| &*Box::leak(Box::new(library))).map_err(|error| error.to_string())
}

fn symbols(library: &Library) -> std::result::Result<NvrtcFunctions, String> {
    /// # Safety
    /// `T` is the type of the function of this name.
    unsafe fn get<T: Copy>(library: &Library, name: &str) -> std::result::Result<T, String> {
        // SAFETY: the caller's promise.
        let symbol = unsafe { library.get::<T>(name.as_bytes()) };
        symbol.map(|symbol| *symbol).map_err(|error| error.to_string())
    }
    // SAFETY: the types are those of nvrtc.h of CUDA 12 and 13.
    unsafe {
        Ok(NvrtcFunctions {
            create: get(library, "nvrtcCreateProgram")?,
            compile: get(library, "nvrtcCompileProgram")?,
            destroy: get(library, "nvrtcDestroyProgram")?,
            log_size: get(library, "nvrtcGetProgramLogSize")?,
            log: get(library, "nvrtcGetProgramLog")?,
            cubin_size: get(library, "nvrtcGetCUBINSize")?,
            cubin: get(library, "nvrtcGetCUBIN")?,
            ptx_size: get(library, "nvrtcGetPTXSize")?,
            ptx: get(library, "nvrtcGetPTX")?,
            version: get(library, "nvrtcVersion")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_of_any_version_is_found_the_nearest_and_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let [near, far] = ["near", "far"].map(|name| folder.path().join(name));
        for (at, name) in [
            (&near, "libnvrtc.so.12"),
            (&near, "libnvrtc-builtins.so.12.8"),
            (&far, "libnvrtc.so.12"),
            (&far, "libnvrtc.so.13"),
            (&far, "libnvrtc-builtins.so.13.0"),
            (&far, "libnvrtc.so.11.2"),
        ] {
            std::fs::create_dir_all(at).unwrap();
            std::fs::write(at.join(name), "").unwrap();
        }
        let candidate =
            |compiler: PathBuf, builtins: Option<PathBuf>| Candidate { compiler, builtins };
        let found = candidates(&[near.clone(), folder.path().join("none"), far.clone()]);
        let expected = [
            candidate(near.join("libnvrtc.so.12"), Some(near.join("libnvrtc-builtins.so.12.8"))),
            candidate(far.join("libnvrtc.so.13"), Some(far.join("libnvrtc-builtins.so.13.0"))),
            candidate(far.join("libnvrtc.so.12"), None),
            candidate("libnvrtc.so.13".into(), None),
            candidate("libnvrtc.so.12".into(), None),
        ];
        assert_eq!(found, expected);
    }
}
