//! Where records go.

use std::path::Path;

use super::StepRecord;
use crate::error::Result;

/// An outlet of the loop: a file, a terminal, a dashboard. It gets every step once and in order,
/// some at a time, whenever the loop has read their losses from the device.
pub trait MetricSink {
    /// Takes the steps since the last call, at least one.
    ///
    /// # Errors
    /// What keeps the outlet from taking them.
    fn steps(&mut self, records: &[StepRecord]) -> Result<()>;

    /// Takes something that a person should know, such as why a step is not captured. Ignored
    /// unless implemented.
    fn warning(&mut self, text: &str) {
        let _ = text;
    }

    /// Takes something that a person may want to know. Ignored unless implemented.
    fn note(&mut self, text: &str) {
        let _ = text;
    }

    /// What a person should know of the outlet itself, once; every outlet is told.
    fn take_warning(&mut self) -> Option<String> {
        None
    }

    /// Forgets the steps after `step`: the run went back, and takes them anew. Ignored unless
    /// implemented.
    ///
    /// # Errors
    /// What keeps the outlet from it.
    fn rewind(&mut self, step: u64) -> Result<()> {
        let _ = step;
        Ok(())
    }

    /// The run's folder is `folder` now; files that are open stay so. Ignored unless implemented.
    fn moved(&mut self, folder: &Path) {
        let _ = folder;
    }

    /// Writes what waits, so that it lasts: a checkpoint follows, or the run ends.
    ///
    /// # Errors
    /// What keeps the outlet from writing it.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
