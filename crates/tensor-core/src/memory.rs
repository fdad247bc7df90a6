//! Memory of this process, and of its CUDA devices.

#![expect(unsafe_code, reason = "the border to C and C++")]

use tch::Device;

use crate::error::Result;
use crate::shim;

/// Memory of this process in bytes, as Linux counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Resident now.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak_resident: u64,
}

/// Reads the system's own count, `/proc/self/status`; `None` where the system has none.
pub fn process() -> Option<ProcessMemory> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let bytes = |key: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(key))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    };
    Some(ProcessMemory { resident: bytes("VmRSS:")?, peak_resident: bytes("VmHWM:")? })
}

/// Memory of CPU tensors of 64 KiB and more, in bytes, since [`keep_freed_memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMemory {
    /// In tensors now.
    pub live: u64,
    /// The most that ever was in tensors at once.
    pub peak: u64,
    /// Freed, and waiting for the next tensor.
    pub waiting: u64,
}

/// Counts the memory of CPU tensors.
pub fn tensors() -> TensorMemory {
    let (mut live, mut peak, mut waiting) = (0, 0, 0);
    // SAFETY: the three addresses are valid for the call.
    unsafe { shim::b4_cpu_memory_counts(&mut live, &mut peak, &mut waiting) };
    TensorMemory { live, peak, waiting }
}

/// Memory that libtorch holds on a CUDA device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In tensors now.
    pub allocated: u64,
    /// The most that ever was in tensors at once.
    pub peak_allocated: u64,
    /// Taken from the driver now: tensors, and what waits for the next ones.
    pub reserved: u64,
    /// The most that ever was taken.
    pub peak_reserved: u64,
}

/// Counts what libtorch holds on `device`; `None` where that is no CUDA device. Waits for nothing.
///
/// # Errors
/// No such device.
pub fn of_device(device: Device) -> Result<Option<DeviceMemory>> {
    let Device::Cuda(index) = device else { return Ok(None) };
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    let mut counts = [0u64; 4];
    // SAFETY: the shim writes four numbers, or nothing and returns a message.
    let message = unsafe { shim::b4_device_memory(index, counts.as_mut_ptr()) };
    // SAFETY: the message is ours.
    unsafe { shim::check("memory of a CUDA device", message)? };
    let [allocated, peak_allocated, reserved, peak_reserved] = counts;
    Ok(Some(DeviceMemory { allocated, peak_allocated, reserved, peak_reserved }))
}

/// Makes CPU tensors keep freed memory for the next step instead of giving it back.
///
/// libtorch's CPU tensors come from `malloc`, which maps each large one afresh and unmaps it
/// again: every step then pays for page faults and zeroed pages. From now on freed blocks of
/// 64 KiB and more wait for the next tensor; what waits is given back when the process would
/// otherwise outgrow the most that its tensors ever held by more than an eighth. Call at the
/// start of a program.
pub fn keep_freed_memory() {
    // SAFETY: libtorch takes another allocator at any time; tensors remember who frees them.
    unsafe { shim::b4_keep_cpu_memory() };
}
