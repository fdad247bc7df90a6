//! The C++ shim's functions, and the ways in which tensors and errors cross to it.

#![expect(unsafe_code, reason = "the border to C and C++")]

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;

use crate::error::{Error, Result};

/// An `at::Tensor` on the C++ heap; null where a tensor is absent.
pub(crate) type RawTensor = *mut c_void;

/// See `csrc/profiler.cpp`.
#[repr(C)]
pub(crate) struct RawEvent {
    pub(crate) name: u32,
    pub(crate) kind: u32,
    pub(crate) thread: u64,
    pub(crate) start_ns: i64,
    pub(crate) end_ns: i64,
}

/// See `csrc/attention.cpp`.
#[repr(C)]
pub(crate) struct RawSdpaArgs {
    pub(crate) query: *const c_void,
    pub(crate) key: *const c_void,
    pub(crate) value: *const c_void,
    pub(crate) mask: *const c_void,
    pub(crate) scale: *const f64,
    pub(crate) causal: bool,
    pub(crate) grouped: bool,
    pub(crate) allowed: c_int,
}

/// See `csrc/custom_function.cpp`.
pub(crate) type BackwardFn = unsafe extern "C" fn(
    closure: *mut c_void,
    saved: *const RawTensor,
    saved_count: usize,
    grads: *const RawTensor,
    grad_count: usize,
    needs: *const bool,
    input_grads: *mut RawTensor,
    input_count: usize,
) -> *mut c_char;

unsafe extern "C" {
    pub(crate) fn b4_load_cuda() -> *mut c_char;
    pub(crate) fn b4_sdpa(args: *const RawSdpaArgs, result: *mut RawTensor) -> *mut c_char;
    pub(crate) fn b4_sdpa_choice(args: *const RawSdpaArgs, choice: *mut i64) -> *mut c_char;
    #[cfg(test)]
    pub(crate) fn b4_cudnn_attention(
        args: *const RawSdpaArgs,
        result: *mut RawTensor,
    ) -> *mut c_char;
    pub(crate) fn b4_torch_version() -> *const c_char;
    pub(crate) fn b4_torch_path() -> *mut c_char;
    pub(crate) fn b4_cpu_capability() -> *mut c_char;
    pub(crate) fn b4_random_state_get(cuda_index: c_int, state: *mut RawTensor) -> *mut c_char;
    pub(crate) fn b4_random_state_set(cuda_index: c_int, state: *const c_void) -> *mut c_char;
    pub(crate) fn b4_current_stream(cuda_index: c_int, stream: *mut *mut c_void) -> *mut c_char;
    pub(crate) fn b4_aside_new(cuda_index: c_int, copy_stream: *mut *mut c_void) -> *mut c_char;
    pub(crate) fn b4_aside_enter(copy_stream: *mut c_void) -> *mut c_char;
    pub(crate) fn b4_aside_leave(copy_stream: *mut c_void) -> *mut c_char;
    pub(crate) fn b4_aside_keep(copy_stream: *mut c_void, tensor: *const c_void) -> *mut c_char;
    pub(crate) fn b4_aside_drop(copy_stream: *mut c_void);
    pub(crate) fn b4_device_memory(cuda_index: c_int, counts: *mut u64) -> *mut c_char;
    pub(crate) fn b4_allow_tf32(allow: bool) -> *mut c_char;
    pub(crate) fn b4_flash_varlen(
        query: *const c_void,
        key: *const c_void,
        value: *const c_void,
        bounds: *const c_void,
        longest: i64,
        causal: bool,
        scale: f64,
        back: i64,
        ahead: i64,
        result: *mut RawTensor,
    ) -> *mut c_char;
    pub(crate) fn b4_random_seed(seed: u64) -> *mut c_char;
    pub(crate) fn b4_keep_cpu_memory();
    pub(crate) fn b4_cpu_memory_counts(live: *mut u64, peak: *mut u64, waiting: *mut u64);
    pub(crate) fn b4_profiler_start(cuda: bool) -> *mut c_char;
    pub(crate) fn b4_profiler_span(
        name: *const c_char,
        length: usize,
        span: *mut *mut c_void,
    ) -> *mut c_char;
    pub(crate) fn b4_profiler_end(span: *mut c_void);
    pub(crate) fn b4_profiler_stop(
        trace: *const c_char,
        events: *mut *mut RawEvent,
        count: *mut usize,
        names: *mut *mut c_char,
    ) -> *mut c_char;
    pub(crate) fn b4_custom_function_attach(
        name: *const c_char,
        inputs: *const *const c_void,
        input_count: usize,
        outputs: *const *const c_void,
        output_count: usize,
        saved: *const *const c_void,
        saved_count: usize,
        closure: *mut c_void,
        backward: BackwardFn,
        drop: unsafe extern "C" fn(closure: *mut c_void),
        twice_differentiable: bool,
        results: *mut RawTensor,
    ) -> *mut c_char;
}

/// Takes a string that C++ made with `malloc`.
///
/// # Safety
/// `text` is null, or a NUL-terminated string from `malloc` that nobody else frees.
pub(crate) unsafe fn take_text(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller promises a NUL-terminated string of which we are the owner.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        Some(owned)
    }
}

/// Turns a shim function's returned message into a result.
///
/// # Safety
/// As for [`take_text`].
pub(crate) unsafe fn check(op: &str, message: *mut c_char) -> Result<()> {
    // SAFETY: the caller's promise is passed on.
    match unsafe { take_text(message) } {
        None => Ok(()),
        Some(text) => Err(Error::from_torch_text(op.to_owned(), &text)),
    }
}

/// A copy of `text` that C++ may `free`.
pub(crate) fn give_text(text: &str) -> *mut c_char {
    let bytes: Vec<u8> = text.bytes().filter(|&byte| byte != 0).collect();
    // SAFETY: `malloc` returns null or room for all bytes and the NUL, which are then written.
    unsafe {
        let copy = libc::malloc(bytes.len() + 1).cast::<u8>();
        if copy.is_null() {
            return std::ptr::null_mut();
        }
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        *copy.add(bytes.len()) = 0;
        copy.cast()
    }
}

/// The pointer to the `at::Tensor` inside, borrowed.
pub(crate) fn borrow_raw(tensor: &Tensor) -> *const c_void {
    tensor.as_ptr() as *const c_void
}

/// Takes over an `at::Tensor` from the C++ heap.
///
/// # Safety
/// `raw` is null, or points to an `at::Tensor` from `new` that nobody else deletes.
pub(crate) unsafe fn take_tensor(raw: RawTensor) -> Option<Tensor> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: tch's C_tensor is the same at::Tensor, and the caller gives us its ownership.
    Some(unsafe { Tensor::from_ptr(raw.cast()) })
}

/// Gives an `at::Tensor` on the C++ heap away; null where the tensor is absent.
pub(crate) fn give_tensor(tensor: Option<Tensor>) -> RawTensor {
    match tensor {
        None => std::ptr::null_mut(),
        Some(tensor) => std::mem::ManuallyDrop::new(tensor).as_mut_ptr().cast(),
    }
}
