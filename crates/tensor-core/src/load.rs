//! Whether the machine did other work meanwhile, so that times are worth less.

#![expect(unsafe_code, reason = "the border to C")]

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Counts what the machine and this process do from now on.
#[derive(Debug, Clone)]
pub struct LoadMeter {
    began: Instant,
    first: Counters,
}

/// What a machine did besides this process, on average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MachineLoad {
    /// Cores that other processes kept busy.
    pub other_cores: f64,
    /// Cores that the machine's host took away from it.
    pub stolen_cores: f64,
    /// How often a second the system took a core from a thread of this process that wanted to go
    /// on.
    pub involuntary_switches_per_s: f64,
}

/// Since the machine or the process began.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    /// Seconds of all cores in which any process ran.
    busy_s: f64,
    /// Seconds of all cores that the host took.
    stolen_s: f64,
    /// Seconds of all cores in which this process ran.
    own_s: f64,
    involuntary_switches: f64,
}

impl MachineLoad {
    /// Whether times measured meanwhile are worth less: more than a tenth of the machine's `cores`
    /// did something else.
    pub fn is_busy(&self, cores: usize) -> bool {
        self.other_cores + self.stolen_cores > 0.1 * cores as f64
    }
}

impl LoadMeter {
    /// Begins to count.
    pub fn start() -> Self {
        Self { began: Instant::now(), first: Counters::read().unwrap_or_default() }
    }

    /// The averages since the start; `None` where the system has no such counts.
    pub fn read(&self) -> Option<MachineLoad> {
        let (now, then) = (Counters::read()?, self.first);
        // The system counts in hundredths of a second.
        let elapsed = self.began.elapsed().as_secs_f64().max(0.01);
        let others = (now.busy_s - then.busy_s) - (now.own_s - then.own_s);
        let switches = now.involuntary_switches - then.involuntary_switches;
        Some(MachineLoad {
            other_cores: others.max(0.0) / elapsed,
            stolen_cores: (now.stolen_s - then.stolen_s).max(0.0) / elapsed,
            involuntary_switches_per_s: switches / elapsed,
        })
    }
}

impl Counters {
    fn read() -> Option<Self> {
        let (busy_s, stolen_s) = machine_times(&std::fs::read_to_string("/proc/stat").ok()?)?;
        // SAFETY: all zeros is a value of this struct of integers, which the call then fills.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &mut usage);
            usage
        };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Some(Self {
            busy_s,
            stolen_s,
            own_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            involuntary_switches: usage.ru_nivcsw as f64,
        })
    }
}

/// Seconds of all cores together, busy and stolen, of `/proc/stat`'s first line: user, nice,
/// system, idle, iowait, irq, softirq, steal, and guests that user and nice have in them.
fn machine_times(stat: &str) -> Option<(f64, f64)> {
    /// Linux tells programs times in this unit, whatever it counts in itself.
    const TICKS_PER_S: f64 = 100.0;
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|tick| tick.parse().ok()).collect();
    let &[user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = &ticks[..] else {
        return None;
    };
    Some(((user + nice + system + irq + softirq) / TICKS_PER_S, steal / TICKS_PER_S))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_machine_s_times_are_read() {
        let stat = "cpu  100 20 30 4000 500 6 7 80 90 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(machine_times(stat), Some((1.63, 0.8)));
        assert_eq!(machine_times("cpu  1 2 3\n"), None);
        assert_eq!(machine_times(""), None);
    }

    #[test]
    fn own_work_is_not_counted_as_others() {
        let meter = LoadMeter::start();
        let mut shell = std::process::Command::new("sh");
        let mut child = shell.args(["-c", "while :; do :; done"]).spawn().unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(400) {
            std::hint::black_box(began);
        }
        let load = meter.read().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // A machine with a single core shares it between the two.
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        assert!(load.other_cores > 0.2, "{load:?}");
        assert!(load.other_cores < cores + 0.1, "{load:?}");
        assert!(load.is_busy(1) && !load.is_busy(1000));
        assert!(load.involuntary_switches_per_s >= 0.0 && load.stolen_cores >= 0.0, "{load:?}");
    }
}
