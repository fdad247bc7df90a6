//! CUDA graphs: work recorded once and launched again as a whole.
//!
//! A step of a small model is hundreds of short kernels, and launching them takes longer than
//! running them. A graph launches all by one call. What is recorded must be the same each time:
//! the same shapes, on the same memory, without a look at any value from the host. What changes,
//! such as a batch or a learning rate, is written into tensors that are there before.

#![expect(unsafe_code, reason = "the border to C++, and a library loaded from memory")]

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_NOW};
use tch::Tensor;

use crate::device::{self, Cuda, cuda};
use crate::error::{Error, Result, catch_torch_error};
use crate::shim;

const OP: &str = "CUDA graph";

/// `csrc/cuda/graph.cpp` as a library; empty where CUDA's headers were missing when this was built.
static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cuda_shim.so"));

type OnCapture = unsafe extern "C" fn(*mut c_void) -> *mut c_char;

/// The functions of that library.
#[derive(Debug)]
struct Functions {
    new: unsafe extern "C" fn(c_int, *mut *mut c_void) -> *mut c_char,
    begin: OnCapture,
    end: OnCapture,
    abandon: OnCapture,
    leave: OnCapture,
    replay: OnCapture,
    drop: unsafe extern "C" fn(*mut c_void),
}

/// Whether this program was built with what graphs need; they still need a GPU to run on.
pub fn is_built_in() -> bool {
    !LIBRARY.is_empty()
}

/// Whether what graphs need is here, but for a GPU: libtorch's CUDA half, with all that this calls.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<()> {
    functions().map(drop)
}

fn functions() -> Result<&'static Functions> {
    static FUNCTIONS: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
    FUNCTIONS
        .get_or_init(load)
        .as_ref()
        .map_err(|reason| Error::Unsupported { what: OP.into(), reason: reason.clone() })
}

fn load() -> std::result::Result<Functions, String> {
    device::load()?;
    if !is_built_in() {
        return Err("CUDA's headers were missing when this program was built; run \
                    `cargo xtask setup` and build again"
            .into());
    }
    let library = library_from_memory().map_err(|error| error.to_string())?;
    /// # Safety
    /// `T` is the type of the function of this name.
    unsafe fn get<T: Copy>(library: &Library, name: &str) -> std::result::Result<T, String> {
        // SAFETY: the caller's promise.
        let symbol = unsafe { library.get::<T>(name.as_bytes()) };
        symbol.map(|symbol| *symbol).map_err(|error| error.to_string())
    }
    // SAFETY: the types are those of csrc/cuda/graph.cpp, which this library was made from.
    let functions = unsafe {
        Functions {
            new: get(&library, "b4_graph_new")?,
            begin: get(&library, "b4_graph_begin")?,
            end: get(&library, "b4_graph_end")?,
            abandon: get(&library, "b4_graph_abandon")?,
            leave: get(&library, "b4_graph_leave")?,
            replay: get(&library, "b4_graph_replay")?,
            drop: get(&library, "b4_graph_drop")?,
        }
    };
    // Never unloaded: the functions above stay.
    std::mem::forget(library);
    Ok(functions)
}

/// Loads [`LIBRARY`] behind libtorch's CUDA backend, whose symbols it needs.
fn library_from_memory() -> std::result::Result<Library, Box<dyn std::error::Error>> {
    use std::io::Write;
    // SAFETY: the name ends with NUL; the new descriptor is ours alone, or negative.
    let file = unsafe {
        let descriptor = libc::memfd_create(c"bert4rs_cuda_shim".as_ptr(), libc::MFD_CLOEXEC);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    let mut file = std::fs::File::from(file);
    file.write_all(LIBRARY)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: our own library, which has no initialiser but those of C++ itself.
    Ok(unsafe { Library::open(Some(path), RTLD_NOW)? })
}

/// Work on a CUDA device, recorded.
///
/// It owns what the recorded work returned and the tensors that it was told of, so that their
/// memory stays: see [`Graph::record`].
#[derive(Debug)]
pub struct Graph<T> {
    capture: Capture,
    outputs: T,
    touched: Vec<Touched>,
}

/// A tensor that recorded work reads or changes, and where it lay then.
#[derive(Debug)]
struct Touched {
    /// The caller's own tensor, which may be given other memory.
    tensor: Tensor,
    /// The memory of then, held whatever becomes of the tensor.
    _memory: Tensor,
    place: usize,
}

impl Touched {
    fn new(tensor: &Tensor) -> Self {
        let memory = tensor.detach();
        Self { place: place(tensor), tensor: tensor.shallow_clone(), _memory: memory }
    }
}

fn place(tensor: &Tensor) -> usize {
    if tensor.defined() { tensor.data_ptr() as usize } else { 0 }
}

impl<T> Graph<T> {
    /// Records `body` instead of running it.
    ///
    /// All work of `body` must be on the CUDA device `index`, the same each time, and wait for
    /// nothing. It must have been done before, at least once, so that what is made at first use is
    /// there. Tensors that it makes belong to the graph: one that it returns is written again by
    /// each [`replay`](Self::replay). `touched` are all others that it reads or changes: the graph
    /// becomes one of their owners, as a replay goes to that memory again. All graphs of a device
    /// have their memory in common, so that only one runs at a time, and what one makes and does
    /// not return is lost when another runs.
    ///
    /// # Errors
    /// No such device, a program built without CUDA's headers, an error or a panic of `body`, and
    /// whatever can't be recorded, such as a look at a value. Streams, allocators and random
    /// generators are then as they were: do the same without a graph.
    pub fn record<'a>(
        index: usize,
        touched: impl IntoIterator<Item = &'a Tensor>,
        body: impl FnOnce() -> Result<T>,
    ) -> Result<Self> {
        if let Cuda::None(reason) = cuda() {
            return Err(Error::Unsupported { what: OP.into(), reason: reason.clone() });
        }
        let touched = touched.into_iter().map(Touched::new).collect();
        Self::record_by(functions()?, index, touched, body)
    }

    fn record_by(
        functions: &'static Functions,
        index: usize,
        touched: Vec<Touched>,
        body: impl FnOnce() -> Result<T>,
    ) -> Result<Self> {
        let capture = Capture::new(functions, index)?;
        let recording = Recording::begin(&capture)?;
        // A panic too: a stream that records can do nothing else, whoever catches it later.
        let outputs = catch_torch_error(OP, body).flatten()?;
        recording.end()?;
        Ok(Self { capture, outputs, touched })
    }

    /// Runs what was recorded, behind what is on the current stream, without waiting for it.
    ///
    /// # Errors
    /// A tensor that was given other memory since, and what CUDA throws.
    pub fn replay(&self) -> Result<()> {
        if self.touched.iter().any(|touched| place(&touched.tensor) != touched.place) {
            return Err(Error::Unsupported {
                what: "replaying this CUDA graph".into(),
                reason: "a tensor that it was recorded with lies elsewhere by now; record it anew"
                    .into(),
            });
        }
        self.capture.call(self.capture.functions.replay)
    }

    /// What the recorded work returned, as the last replay left it.
    pub fn outputs(&self) -> &T {
        &self.outputs
    }
}

/// The time in which a thread's work is recorded. Unless it [ends](Self::end), all that is open is
/// closed when it is dropped, and nothing was recorded.
struct Recording<'a> {
    capture: &'a Capture,
    ended: bool,
}

impl<'a> Recording<'a> {
    fn begin(capture: &'a Capture) -> Result<Self> {
        // First, as what fails on the way may have been half done.
        let recording = Self { capture, ended: false };
        capture.call(capture.functions.begin)?;
        Ok(recording)
    }

    fn end(mut self) -> Result<()> {
        self.capture.call(self.capture.functions.end)?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        let functions = self.capture.functions;
        if !self.ended {
            // The failure that led here is the one to tell.
            let _ = self.capture.call(functions.abandon);
        }
        // Waits between two streams of one device: it fails where CUDA as a whole has failed, which
        // whatever comes next will tell.
        let _ = self.capture.call(functions.leave);
    }
}

/// `Capture` of csrc/cuda/graph.cpp.
#[derive(Debug)]
struct Capture {
    functions: &'static Functions,
    raw: *mut c_void,
}

impl Capture {
    fn new(functions: &'static Functions, index: usize) -> Result<Self> {
        let refuse = || Error::Device { asked: format!("cuda:{index}"), reason: "no such".into() };
        let index = c_int::try_from(index).map_err(|_| refuse())?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the function writes a pointer to what is ours to drop, or returns a message.
        unsafe { shim::check(OP, (functions.new)(index, &mut raw))? };
        Ok(Self { functions, raw })
    }

    fn call(&self, function: OnCapture) -> Result<()> {
        // SAFETY: `raw` is alive until dropped, and the function is one of those that take it.
        unsafe { shim::check(OP, function(self.raw)) }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // SAFETY: made by `b4_graph_new`, dropped only here.
        unsafe { (self.functions.drop)(self.raw) };
    }
}

#[cfg(test)]
mod tests;
