//! Time since this process began, libtorch's loading included.

use std::time::{Duration, Instant};

/// Counts from the start of the process rather than from the first line of `main`.
#[derive(Debug, Clone, Copy)]
pub struct ProcessClock {
    began: Instant,
}

impl ProcessClock {
    /// Asks the system when this process began; where it can't tell, time counts from now.
    pub fn new() -> Self {
        let now = Instant::now();
        let age = process_age().unwrap_or_default();
        Self { began: now.checked_sub(age).unwrap_or(now) }
    }

    /// Time since the process began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Default for ProcessClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Uptime minus this process's start, both as Linux counts them.
fn process_age() -> Option<Duration> {
    /// `/proc` counts in hundredths of a second on every Linux that Rust runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime_s: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in brackets may hold spaces; the start is the 20th field after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let start_ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let age_s = uptime_s - start_ticks / TICKS_PER_SECOND;
    (0.0..60.0).contains(&age_s).then(|| Duration::from_secs_f64(age_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_older_than_the_clock() {
        let clock = ProcessClock::new();
        assert!(clock.elapsed() < Duration::from_secs(60));
        assert!(process_age().is_some(), "Linux tells a process's age");
    }
}
