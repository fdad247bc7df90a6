//! Memory of this process.

#![expect(unsafe_code, reason = "the border to C and C++")]

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

/// Makes the C allocator keep freed memory for the next step instead of giving it back.
///
/// libtorch's CPU tensors come from `malloc`, which maps each large one afresh and unmaps it
/// again: every step then pays for page faults and zeroed pages. The price is that the process
/// stays as large as it ever was. Call once, at the start of a program, and compute on its main
/// thread: glibc keeps no more than 64 MiB in one piece for any other.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of glibc's allocator; any values are allowed.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        // Its word for never.
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}
