//! What processes that train together ask of each other, and a process alone.

use std::fmt::Debug;

use tch::Tensor;

use super::Work;
use crate::error::{Context, Error, Result};
use crate::no_grad;

/// How values are reduced over ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// Their sum. In the order that the backend chooses: see
    /// [`all_reduce_sum`](super::all_reduce_sum) for one in the order of ranks.
    Sum,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// Processes that call the same collectives in the same order, each with tensors of the same size
/// and dtype. That is not checked, unless the group was made to: compare what the sizes follow
/// from first, by [`agree`](super::agree).
///
/// Tensors are flat, `[n]`, and contiguous. Their contents are undefined until the [`Work`] was
/// waited for.
pub trait ProcessGroup: Debug {
    /// This process's number, from 0.
    fn rank(&self) -> usize;

    /// How many processes there are.
    fn size(&self) -> usize;

    /// Reduces `tensor` over all ranks, in place: all get the same.
    ///
    /// # Errors
    /// A tensor that is not flat, and a peer that is gone or hangs.
    fn all_reduce(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<Work>;

    /// Makes `tensor` that of rank `root`.
    ///
    /// # Errors
    /// As of [`all_reduce`](Self::all_reduce).
    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<Work>;

    /// Puts the `input` of all ranks, `[n]`, one after another into `output`, `[size n]`.
    ///
    /// # Errors
    /// As of [`all_reduce`](Self::all_reduce).
    fn all_gather(&self, output: &mut Tensor, input: &Tensor) -> Result<Work>;

    /// Sends part `r` of `input`, `[size n]`, to rank `r`, whose part stands at its place in
    /// `output`, `[size n]`.
    ///
    /// # Errors
    /// As of [`all_reduce`](Self::all_reduce).
    fn all_to_all(&self, output: &mut Tensor, input: &Tensor) -> Result<Work>;

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// The ranks that did not come in time.
    fn barrier(&self) -> Result<()>;
}

/// A process alone. Nothing waits, and nothing is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Solo;

impl ProcessGroup for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, tensor: &mut Tensor, _: ReduceOp) -> Result<Work> {
        check_flat("all_reduce", "tensor", tensor, None)?;
        Ok(Work::done())
    }

    fn broadcast(&self, tensor: &mut Tensor, _: usize) -> Result<Work> {
        check_flat("broadcast", "tensor", tensor, None)?;
        Ok(Work::done())
    }

    fn all_gather(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        check_pair("all_gather", output, input, 1)?;
        no_grad(|| output.f_copy_(input)).during("all_gather")?;
        Ok(Work::done())
    }

    fn all_to_all(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        check_pair("all_to_all", output, input, 1)?;
        no_grad(|| output.f_copy_(input)).during("all_to_all")?;
        Ok(Work::done())
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }
}

/// Refuses a tensor that is not `[n]` and contiguous, or not of `count` values.
pub(super) fn check_flat(
    op: &'static str,
    tensor: &'static str,
    found: &Tensor,
    count: Option<i64>,
) -> Result<()> {
    let fits = found.dim() == 1 && count.is_none_or(|count| found.size()[0] == count);
    if fits && found.is_contiguous() {
        return Ok(());
    }
    let expected = count.map_or_else(|| "[n]".to_owned(), |count| format!("[{count}]"));
    Err(Error::Shape {
        op,
        tensor,
        found: found.size(),
        expected: format!("{expected}, contiguous"),
    })
}

/// Refuses an `output` that does not hold `times` as many values as `input`, or has another dtype.
pub(super) fn check_pair(
    op: &'static str,
    output: &Tensor,
    input: &Tensor,
    times: i64,
) -> Result<()> {
    check_flat(op, "input", input, None)?;
    check_flat(op, "output", output, Some(input.size()[0] * times))?;
    if output.kind() == input.kind() {
        return Ok(());
    }
    let message = format!("output is {:?}, input {:?}", output.kind(), input.kind());
    Err(Error::Torch { op: op.into(), message })
}
