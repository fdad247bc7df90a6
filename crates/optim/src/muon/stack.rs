//! Which matrices are multiplied together: those of one shape, and transposes of them.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use super::{MuonSlot, OP, Turn};
use crate::error::Result;

/// A matrix within a parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct MatrixBlock {
    pub(super) start: i64,
    pub(super) rows: i64,
    pub(super) cols: i64,
}

impl MatrixBlock {
    pub(super) fn of(self, matrix: &Tensor) -> Result<Tensor> {
        Ok(matrix.f_narrow(0, self.start, self.rows).during(OP)?)
    }

    /// Whether it is stacked transposed: stacks have rows no longer than columns.
    pub(super) fn is_tall(self) -> bool {
        self.rows > self.cols
    }
}

/// Values of one stack at most. GPUs need large stacks to be busy. On CPUs a block of more than
/// 32 MiB is given back to the system whenever it is freed, and every page of the next one costs
/// a fault.
fn stack_values(device: Device) -> i64 {
    if device == Device::Cpu { 1 << 22 } else { 1 << 26 }
}

/// Stacks of `(slot, block)` of equal sides and dtype, wide ones first, of those whose `turn` it
/// is.
pub(super) fn stacks(slots: &[MuonSlot<'_>], turn: Turn) -> Vec<Vec<(usize, usize)>> {
    type Key = (i64, i64, bool, bool);
    let mut keyed: Vec<(Key, (usize, usize))> = Vec::new();
    let moves = |(_, slot): &(usize, &MuonSlot<'_>)| turn.is_of(&slot.param.name);
    for (slot_index, slot) in slots.iter().enumerate().filter(moves) {
        let double = slot.state.momentum_buffer.kind() == Kind::Double;
        for (block_index, block) in slot.state.blocks.iter().enumerate() {
            let (n, m) = (block.rows.min(block.cols), block.rows.max(block.cols));
            keyed.push(((n, m, double, block.is_tall()), (slot_index, block_index)));
        }
    }
    keyed.sort_by_key(|(key, _)| *key);
    let same = |left: &(Key, _), right: &(Key, _)| {
        let ((n, m, double, _), (n2, m2, double2, _)) = (left.0, right.0);
        (n, m, double) == (n2, m2, double2)
    };
    let mut stacks = Vec::new();
    for equal in keyed.chunk_by(same) {
        let (n, m, ..) = equal[0].0;
        let device = slots[equal[0].1.0].param.weight.device();
        let most = (stack_values(device) / (n * m).max(1)).max(1) as usize;
        stacks.extend(equal.chunks(most).map(|part| part.iter().map(|(_, at)| *at).collect()));
    }
    stacks
}

/// Ranges of `stack` that are transposed alike.
pub(super) fn stack_runs(
    stack: &[(usize, usize)],
    slots: &[MuonSlot<'_>],
) -> Vec<std::ops::Range<usize>> {
    let is_tall = |&(slot, block): &(usize, usize)| slots[slot].state.blocks[block].is_tall();
    let wide = stack.iter().take_while(|at| !is_tall(at)).count();
    [0..wide, wide..stack.len()].into_iter().filter(|run| !run.is_empty()).collect()
}
