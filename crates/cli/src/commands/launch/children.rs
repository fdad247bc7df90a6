//! Processes that were started together: their output, and their end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bert4rs_train::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to end after another has failed: enough to find out which one and to
/// say so.
const GRACE: Duration = Duration::from_secs(8);
/// What is added to a signal's number in an exit code, as shells have it.
const BY_SIGNAL: i32 = 128;

/// Processes, and the threads that pass on what they print.
#[derive(Debug, Default)]
pub(super) struct Children {
    running: Vec<(usize, Child)>,
    output: Vec<JoinHandle<()>>,
    /// When those that still run are killed.
    overdue: Option<Instant>,
}

/// A process that failed.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) rank: usize,
    pub(super) code: u8,
    /// How, in words.
    pub(super) how: String,
}

impl Children {
    /// Starts rank `rank`. It is in a group of its own, so that a terminal's Ctrl-C reaches it
    /// once, through the launcher.
    ///
    /// # Errors
    /// The system does not start it; those that run are killed when this is dropped.
    pub(super) fn start(&mut self, rank: usize, mut command: Command) -> Result<()> {
        command.process_group(0).stdin(Stdio::null());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Io { path: format!("rank {rank}").into(), source })?;
        let streams = (child.stdout.take(), child.stderr.take());
        self.running.push((rank, child));
        if let (Some(stdout), Some(stderr)) = streams {
            self.output.push(std::thread::spawn(move || pass_on(rank, stdout, std::io::stdout)));
            self.output.push(std::thread::spawn(move || pass_on(rank, stderr, std::io::stderr)));
        }
        Ok(())
    }

    pub(super) fn all_ended(&self) -> bool {
        self.running.is_empty()
    }

    /// The first that has failed since the last call. What caused others to fail ended before them:
    /// of those that failed since, one that a signal ended is told first.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn look(&mut self) -> Result<Option<Ended>> {
        let (mut failed, mut index) = (Vec::new(), 0);
        while let Some((rank, child)) = self.running.get_mut(index) {
            let ended = child
                .try_wait()
                .map_err(|source| Error::Io { path: format!("rank {rank}").into(), source })?;
            match ended {
                None => index += 1,
                Some(status) => {
                    let (rank, _) = self.running.remove(index);
                    failed.extend(failure(rank, status));
                }
            }
        }
        failed.sort_by_key(|(by_signal, ended)| (!by_signal, ended.rank));
        Ok(failed.into_iter().next().map(|(_, ended)| ended))
    }

    /// Sends all that run a signal.
    pub(super) fn send(&self, signal: i32) {
        let signal = if signal == Signal::INT.as_raw() { Signal::INT } else { Signal::TERM };
        for (_, child) in &self.running {
            // One that has just ended is no longer there.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Asks all that run to end, and gives them some time.
    pub(super) fn end(&mut self) {
        self.send(Signal::TERM.as_raw());
        self.wake();
        self.overdue = Some(Instant::now() + GRACE);
    }

    /// Lets those that were stopped learn of signals.
    fn wake(&self) {
        for (_, child) in &self.running {
            let _ = kill_process(Pid::from_child(child), Signal::CONT);
        }
    }

    /// Kills those whose time is over.
    pub(super) fn kill_overdue(&mut self) {
        if self.overdue.is_some_and(|at| Instant::now() >= at) {
            self.running.iter_mut().for_each(|(_, child)| drop(child.kill()));
        }
    }

    /// Waits until all that was printed is passed on.
    pub(super) fn finish_output(&mut self) {
        self.output.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a signal ended it, and how it failed; nothing where it succeeded.
fn failure(rank: usize, status: ExitStatus) -> Option<(bool, Ended)> {
    if status.success() {
        return None;
    }
    let (code, how) = match (status.code(), status.signal()) {
        (Some(code), _) => (code, format!("ended with exit code {code}")),
        (None, Some(signal)) => (BY_SIGNAL + signal, format!("was ended by signal {signal}")),
        (None, None) => (1, "ended".to_owned()),
    };
    let code = u8::try_from(code).unwrap_or(1);
    Some((status.code().is_none(), Ended { rank, code, how }))
}

/// Passes on what a process prints, a line at a time and marked by its rank.
fn pass_on<W: Write>(rank: usize, from: impl Read, to: fn() -> W) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let marked = [format!("[{rank}] ").as_bytes(), &line].concat();
        // Where nobody reads any more, the process shall not wait for it.
        let _ = to().write_all(&marked);
        line.clear();
    }
}
