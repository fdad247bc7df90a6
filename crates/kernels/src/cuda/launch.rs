//! Kernels compiled, kept, loaded and launched on libtorch's stream and memory.

#![expect(unsafe_code, reason = "the border to the CUDA driver")]

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bert4rs_tensor_core::{Device, Error, Result, Tensor, stream};
use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::kernel_cache::KernelCache;
use super::source::{KernelSource, architecture};
use super::{address, nvrtc};

/// A loaded kernel; modules are never unloaded.
#[derive(Clone, Copy)]
struct LoadedFunction(sys::CUfunction);

// SAFETY: a CUfunction may be launched from any thread whose current context is its own, which
// `KernelLaunch::run` sees to.
unsafe impl Send for LoadedFunction {}

/// A device's context and what was loaded into it.
struct LoadedDevice {
    context: Arc<CudaContext>,
    capability: (i32, i32),
    modules: HashMap<&'static str, usize>,
    functions: HashMap<&'static str, LoadedFunction>,
}

/// All devices that were used, by index.
fn devices() -> &'static Mutex<HashMap<usize, LoadedDevice>> {
    static DEVICES: OnceLock<Mutex<HashMap<usize, LoadedDevice>>> = OnceLock::new();
    DEVICES.get_or_init(Mutex::default)
}

fn driver_error(what: &str) -> impl FnOnce(DriverError) -> Error + '_ {
    move |error| Error::Torch { op: format!("CUDA kernel {what}"), message: error.to_string() }
}

fn with_device<T>(index: usize, body: impl FnOnce(&mut LoadedDevice) -> Result<T>) -> Result<T> {
    let mut devices = devices().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = devices.get_mut(&index) {
        return body(loaded);
    }
    // The driver must be there before cudarc looks for it: it panics where it is not.
    if let bert4rs_tensor_core::device::Cuda::None(reason) = bert4rs_tensor_core::device::cuda() {
        return Err(Error::Device { asked: format!("cuda:{index}"), reason: reason.clone() });
    }
    // The device's primary context: the one that libtorch uses.
    let context = CudaContext::new(index).map_err(driver_error("context"))?;
    let capability = context.compute_capability().map_err(driver_error("context"))?;
    let (modules, functions) = (HashMap::new(), HashMap::new());
    body(devices.entry(index).or_insert(LoadedDevice { context, capability, modules, functions }))
}

/// The compute capability of a CUDA device, such as `(9, 0)`.
///
/// # Errors
/// No such device.
pub fn capability(index: usize) -> Result<(i32, i32)> {
    with_device(index, |loaded| Ok(loaded.capability))
}

/// What tells a CUDA device from others in measurements that are kept: its model.
///
/// # Errors
/// No such device.
pub(crate) fn model(index: usize) -> Result<String> {
    with_device(index, |loaded| loaded.context.name().map_err(driver_error("context")))
}

impl LoadedDevice {
    fn function(&mut self, source: &KernelSource, name: &'static str) -> Result<LoadedFunction> {
        if let Some(&function) = self.functions.get(name) {
            return Ok(function);
        }
        let module = match self.modules.get(source.name) {
            Some(&module) => module,
            None => {
                let module = load(source, self.capability)?;
                self.modules.insert(source.name, module);
                module
            }
        };
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: the module was loaded into this context and is never unloaded.
        let function = unsafe { result::module::get_function(module as sys::CUmodule, c_name) };
        let function = LoadedFunction(function.map_err(driver_error(name))?);
        self.functions.insert(name, function);
        Ok(function)
    }
}

/// Compiles or finds `source` and loads it into the current context.
fn load(source: &KernelSource, capability: (i32, i32)) -> Result<usize> {
    let options = source.options(&architecture(capability));
    let text = source.whole();
    let version = format!("{:?}", nvrtc::version()?);
    let compile = || Ok(nvrtc::compile(source.name, &text, &options)?.cubin);
    let cubin = match KernelCache::of_user() {
        None => compile()?,
        Some(store) => store.get(&[&text, &options.join(" "), &version], compile)?,
    };
    // SAFETY: a cubin that NVRTC made is an image as the driver takes it; it is copied.
    let module = unsafe { result::module::load_data(cubin.as_ptr().cast()) };
    module.map(|module| module as usize).map_err(driver_error(source.name))
}

/// One argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    Pointer(u64),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    /// A struct by value, as it lies in memory.
    Struct(&'a [u64]),
}

impl From<&Tensor> for Arg<'_> {
    fn from(tensor: &Tensor) -> Self {
        Arg::Pointer(address(tensor))
    }
}

impl From<Option<&Tensor>> for Arg<'_> {
    fn from(tensor: Option<&Tensor>) -> Self {
        Arg::Pointer(address(tensor))
    }
}

impl From<i32> for Arg<'_> {
    fn from(value: i32) -> Self {
        Arg::Int(value)
    }
}

impl From<i64> for Arg<'_> {
    fn from(value: i64) -> Self {
        Arg::Long(value)
    }
}

impl From<f64> for Arg<'_> {
    fn from(value: f64) -> Self {
        Arg::Double(value)
    }
}

impl From<f32> for Arg<'_> {
    fn from(value: f32) -> Self {
        Arg::Float(value)
    }
}

impl From<bool> for Arg<'_> {
    fn from(value: bool) -> Self {
        Arg::Int(value.into())
    }
}

/// A launch of one kernel.
pub(crate) struct KernelLaunch {
    pub(crate) source: &'static KernelSource,
    pub(crate) kernel: &'static str,
    pub(crate) grid: (u32, u32, u32),
    pub(crate) block: u32,
    /// Bytes of shared memory beyond what the kernel declares.
    pub(crate) shared: u32,
}

impl KernelLaunch {
    /// Puts the kernel on the current stream of `device`, behind what libtorch has put there.
    ///
    /// # Safety
    /// `args` are what the kernel takes, in order; every pointer among them is to memory on
    /// `device` that is as large as the kernel's comment says, and is freed through libtorch's
    /// allocator only, which waits for the stream.
    pub(crate) unsafe fn run(&self, device: Device, args: &[Arg<'_>]) -> Result<()> {
        if self.grid.0 == 0 || self.grid.1 == 0 || self.grid.2 == 0 {
            return Ok(());
        }
        // Each argument in eight bytes of its own: on a little-endian machine, which all CUDA
        // hosts are, a four-byte one lies at their start.
        let slots: Vec<u64> = args.iter().map(|&arg| slot(arg)).collect();
        let place = |(arg, slot): (&Arg<'_>, &u64)| match arg {
            Arg::Struct(words) => words.as_ptr(),
            _ => std::ptr::from_ref(slot),
        };
        // The driver reads what it is given as mutable.
        let mut pointers: Vec<*mut c_void> =
            args.iter().zip(&slots).map(|pair| place(pair).cast_mut().cast()).collect();
        #[cfg(test)]
        if device == Device::Cpu {
            // SAFETY: the caller's promise.
            unsafe { super::emulator::run(self, &pointers) };
            return Ok(());
        }
        let Device::Cuda(index) = device else {
            let reason = format!("its tensors are on {device:?}");
            return Err(Error::Unsupported {
                what: format!("CUDA kernel {}", self.kernel),
                reason,
            });
        };
        let function = with_device(index, |loaded| {
            loaded.context.bind_to_thread().map_err(driver_error(self.kernel))?;
            let function = loaded.function(self.source, self.kernel)?;
            if self.shared > 48 << 10 {
                allow_shared(function, self.shared).map_err(driver_error(self.kernel))?;
            }
            Ok(function)
        })?;
        let stream = stream::current(index)?;
        let (block, stream) = ((self.block, 1, 1), stream as sys::CUstream);
        // SAFETY: the function belongs to the context that was made current; the rest is the
        // caller's promise.
        unsafe {
            result::launch_kernel(function.0, self.grid, block, self.shared, stream, &mut pointers)
        }
        .map_err(driver_error(self.kernel))
    }
}

fn allow_shared(function: LoadedFunction, bytes: u32) -> std::result::Result<(), DriverError> {
    use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST;
    // SAFETY: the function is loaded.
    unsafe { result::function::set_function_attribute(function.0, MOST, bytes as i32) }
}

fn slot(arg: Arg<'_>) -> u64 {
    match arg {
        Arg::Pointer(value) => value,
        Arg::Int(value) => u64::from(value as u32),
        Arg::Long(value) => value as u64,
        Arg::Float(value) => u64::from(value.to_bits()),
        Arg::Double(value) => value.to_bits(),
        Arg::Struct(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_lie_at_the_start_of_their_slots() {
        assert_eq!(slot(Arg::Int(-1)).to_le_bytes()[..4], (-1i32).to_le_bytes());
        assert_eq!(slot(Arg::Float(1.5)).to_le_bytes()[..4], 1.5f32.to_le_bytes());
        assert_eq!(slot(Arg::Long(-2)), -2i64 as u64);
    }

    #[test]
    fn a_device_without_cuda_is_refused() {
        let launch = KernelLaunch {
            source: &super::super::source::FP8,
            kernel: "amax_float",
            grid: (1, 1, 1),
            block: 32,
            shared: 0,
        };
        // SAFETY: nothing is launched.
        let error = unsafe { launch.run(Device::Mps, &[]) }.unwrap_err().to_string();
        assert!(error.contains("amax_float") && error.contains("Mps"), "{error}");
    }
}
