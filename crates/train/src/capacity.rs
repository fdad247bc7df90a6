//! What this machine has: the limits of what a run may ask for.

use std::fs;
use std::path::Path;

/// Files that tell how much memory a container may have, of control groups 2 and 1.
const CONTAINER_LIMITS: [&str; 2] =
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Bytes of memory that a process may have here, swap included; `None` where nothing tells.
pub fn memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |key: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(key))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        kib.checked_mul(1024)
    };
    let installed = bytes("MemTotal:")?.saturating_add(bytes("SwapTotal:").unwrap_or(0));
    let limits = CONTAINER_LIMITS.iter().filter_map(|path| limit(Path::new(path)));
    Some(limits.fold(installed, u64::min))
}

/// The number in a file, if it holds one.
fn limit(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The most threads that are of any use here.
pub fn most_threads() -> u32 {
    /// More than cores, as threads may wait; and enough to try things out on a small machine.
    const PER_CORE: u32 = 4;
    const LEAST: u32 = 64;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(PER_CORE).max(LEAST)
}
