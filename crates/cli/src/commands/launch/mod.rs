//! `bert4rs launch`: starts the processes that train together, and ends them together. What it says
//! to them is what torchrun says, so that they start the same by either.

mod children;
mod plan;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bert4rs_tensor_core::distributed::Store;
use bert4rs_train::{Error, Result};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use self::children::{Children, Ended};
use self::plan::Plan;
use super::remark;
use crate::launch_flags::LaunchFlags;

/// How long the launcher waits for its own store.
const STORE: Duration = Duration::from_secs(60);
/// Between two looks at the processes.
const POLL: Duration = Duration::from_millis(20);
/// What the program ends with where the input is bad: starting it anew would not help.
const BAD_INPUT: u8 = 2;

pub(crate) fn run(flags: &LaunchFlags) -> Result<ExitCode> {
    let plan = Plan::new(flags)?;
    let signals = Signals::listen()
        .map_err(|source| Error::Io { path: "the handling of signals".into(), source })?;
    // Lives as long as the processes that meet there.
    let store = (plan.node_rank == 0).then(|| Store::serve(plan.port, STORE)).transpose()?;
    let port = store.as_ref().map_or(plan.port, Store::port);
    for restart in 0.. {
        let ended = train(&plan, port, restart, &signals)?;
        let Some(Ended { rank, code, how }) = ended else { return Ok(ExitCode::SUCCESS) };
        remark(&format!("launch: rank {rank} {how}"));
        if signals.came() || code == BAD_INPUT || restart >= flags.max_restarts {
            return Ok(ExitCode::from(code));
        }
        remark(&format!("launch: starting all anew, {} of {}", restart + 1, flags.max_restarts));
    }
    Ok(ExitCode::FAILURE)
}

/// Starts all and waits until all have ended: the first that failed, if one did.
fn train(plan: &Plan, port: u16, restart: u64, signals: &Signals) -> Result<Option<Ended>> {
    let mut children = Children::default();
    for local_rank in 0..plan.processes {
        children.start(plan.rank(local_rank), plan.command(local_rank, port, restart)?)?;
    }
    let mut first = None;
    while !children.all_ended() {
        signals.take(|signal| children.send(signal));
        if let Some(failed) = children.look()?
            && first.is_none()
        {
            first = Some(failed);
            children.end();
        }
        children.kill_overdue();
        std::thread::sleep(POLL);
    }
    children.finish_output();
    Ok(first)
}

/// Makes this process end with the launcher that started it, if one did.
pub(crate) fn end_with_launcher() {
    let Ok(launcher) = std::env::var(plan::LAUNCHER) else { return };
    // Not possible everywhere; then it ends as others do that miss rank 0.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
    let parent = getppid().map(|parent| parent.as_raw_nonzero().to_string());
    if parent.as_deref() != Some(&launcher) {
        // It ended before this process asked to be told.
        std::process::exit(1);
    }
}

/// Signals that came, each to be forwarded.
struct Signals {
    waiting: [(i32, Arc<AtomicBool>); 2],
    any: AtomicBool,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let waiting = [SIGINT, SIGTERM].map(|signal| (signal, Arc::default()));
        for (signal, came) in &waiting {
            signal_hook::flag::register(*signal, Arc::clone(came))?;
        }
        Ok(Self { waiting, any: AtomicBool::new(false) })
    }

    /// Gives `forward` each signal that came since the last call.
    fn take(&self, mut forward: impl FnMut(i32)) {
        for (signal, came) in &self.waiting {
            if came.swap(false, Ordering::Relaxed) {
                self.any.store(true, Ordering::Relaxed);
                forward(*signal);
            }
        }
    }

    /// Whether any has been taken.
    fn came(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }
}
