//! A group whose exchanges are timed and counted.

use std::cell::Cell;
use std::ops::Sub;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bert4rs_tensor_core::distributed::{ProcessGroup, ReduceOp, Solo, Work};
use bert4rs_tensor_core::{Result, Tensor};

/// What exchanges cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Time in which this process did nothing else: nothing overlaps with it.
    pub waited: Duration,
    /// Bytes that this process sent.
    pub bytes: u64,
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let waited = self.waited.saturating_sub(before.waited);
        Self { waited, bytes: self.bytes - before.bytes }
    }
}

/// A group whose exchanges are timed and counted. Each is waited for where it is started. Clones
/// are the same group.
#[derive(Debug, Clone)]
pub struct MeteredGroup {
    inner: Rc<dyn ProcessGroup>,
    traffic: Rc<Cell<Traffic>>,
}

impl MeteredGroup {
    /// Around `group`.
    pub fn new(group: impl ProcessGroup + 'static) -> Self {
        Self { inner: Rc::new(group), traffic: Rc::default() }
    }

    /// A process alone.
    pub fn alone() -> Self {
        Self::new(Solo)
    }

    /// Whether there are others.
    pub fn is_shared(&self) -> bool {
        self.size() > 1
    }

    /// What exchanges cost so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    /// Starts an exchange, waits for it, and counts it with so many `bytes`.
    fn run(&self, bytes: usize, start: impl FnOnce() -> Result<Work>) -> Result<Work> {
        let began = Instant::now();
        start()?.wait()?;
        let Traffic { waited, bytes: before } = self.traffic.get();
        let waited = waited + began.elapsed();
        self.traffic.set(Traffic { waited, bytes: before + bytes as u64 });
        Ok(Work::done())
    }
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

impl ProcessGroup for MeteredGroup {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn all_reduce(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<Work> {
        let sent = 2 * bytes(tensor) * (self.size() - 1) / self.size();
        self.run(sent, || self.inner.all_reduce(tensor, op))
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<Work> {
        let sent = if self.rank() == root { bytes(tensor) } else { 0 };
        self.run(sent, || self.inner.broadcast(tensor, root))
    }

    fn all_gather(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        self.run(bytes(input) * (self.size() - 1), || self.inner.all_gather(output, input))
    }

    fn all_to_all(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        let sent = bytes(input) * (self.size() - 1) / self.size();
        self.run(sent, || self.inner.all_to_all(output, input))
    }

    fn barrier(&self) -> Result<()> {
        self.run(0, || self.inner.barrier().map(|()| Work::done())).map(drop)
    }
}
