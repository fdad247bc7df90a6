//! How many threads libtorch computes with, and how they wait for one another.
//!
//! At the end of each parallel loop the threads meet at a barrier of libgomp's. Who comes first
//! spins there for 300,000 rounds, 4 ms on Zen and 14 ms on Skylake, before it sleeps. On a
//! machine with other work that is ruinous: while one thread has lost its core, its partner spins,
//! uses up its own share of time, and loses its core just as the first gets one again; so both
//! seldom run together. A thread that sleeps instead keeps its share for when there is work, and
//! leaves its core to whom the other one waits for.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{env, io};

/// libgomp's count of rounds, read once as the library is loaded.
const SPIN_COUNT: &str = "GOMP_SPINCOUNT";

/// Also decides how long threads spin.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// About 0.1 to 0.2 ms: longer than the gaps between the parallel loops of a training step, so
/// that threads seldom sleep where they are alone; a twentieth of the time for which Linux gives a
/// core to another process.
const BOUNDED_SPIN_COUNT: u32 = 10_000;

/// The variables with which threads spin for a bounded time; none where `GOMP_SPINCOUNT` or
/// `OMP_WAIT_POLICY` say already how to wait.
pub fn bounded_spinning() -> Option<(&'static str, String)> {
    let is_said = [SPIN_COUNT, WAIT_POLICY].iter().any(|name| env::var_os(name).is_some());
    (!is_said).then(|| (SPIN_COUNT, BOUNDED_SPIN_COUNT.to_string()))
}

/// Starts the program anew, in the same process, with `variables` in its environment; to be called
/// before anything else is done. Returns only where there are none, or where that is not possible.
///
/// Libraries such as libgomp read their variables before `main` begins, hence the second start. It
/// costs what loading libtorch does, a few tenths of a second: worth it for work of minutes.
///
/// # Errors
/// The system does not start the program.
pub fn restart_with(variables: &[(&str, String)]) -> io::Result<()> {
    if variables.is_empty() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let mut again = Command::new(env::current_exe()?);
    again.arg0(arguments.next().unwrap_or_default()).args(arguments);
    again.envs(variables.iter().map(|(name, value)| (name, value)));
    // Where it succeeds, it does not return.
    Err(again.exec())
}

/// Computes with at most as many threads as the process may use cores: libtorch's own count knows
/// the cores that it may run on (`taskset`), but not a control group's share of time, by which
/// containers are limited.
pub fn limit_to_available_cores() {
    let available = std::thread::available_parallelism()
        .map_or(i32::MAX, |cores| i32::try_from(cores.get()).unwrap_or(i32::MAX));
    if tch::get_num_threads() > available {
        tch::set_num_threads(available);
    }
}
