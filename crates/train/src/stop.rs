//! Stopping a run from outside: the step that is under way is finished, and the state saved.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Result;
use crate::hook::{Control, Hook, StepContext};

/// The number of the signal that asked the process to stop, 0 before. Clones are told together.
#[derive(Debug, Clone, Default)]
pub struct StopSignal(Arc<AtomicUsize>);

impl StopSignal {
    /// Listens for Ctrl-C and SIGTERM, in the whole process, from now on. The second one ends the
    /// process at once, with 128 and the signal's number as its exit code.
    ///
    /// # Errors
    /// The system does not let signals be handled.
    pub fn listen() -> std::io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let (stop, armed) = (Self::default(), Arc::default());
        for signal in [SIGINT, SIGTERM] {
            // First the exit, which acts where the flag was set by an earlier signal.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&armed),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&armed))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&stop.0), signal as usize)?;
        }
        Ok(stop)
    }

    /// The signal that came, if one did.
    pub fn received(&self) -> Option<u8> {
        u8::try_from(self.0.load(Ordering::Relaxed)).ok().filter(|&signal| signal != 0)
    }
}

impl Hook for StopSignal {
    fn on_step(&mut self, _: &StepContext<'_>, control: &mut Control) -> Result<()> {
        if self.received().is_some() {
            control.checkpoint();
            control.stop();
        }
        Ok(())
    }
}
