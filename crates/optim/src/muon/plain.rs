//! Muon by libtorch's operations, on any device and in FP64 too: the reference.

use bert4rs_kernels::muon as kernel;
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::error::Context;

use super::stack::{MatrixBlock, stack_runs};
use super::{MuonSlot, MuonStep, OP};
use crate::error::Result;
use crate::masters;
use crate::normuon::normalize_neurons;
use crate::polar::{self, Buffer, Workspace};

/// One step of the blocks of `stack`. Working weights follow by [`round_weight`].
pub(super) fn step_stack(
    step: &MuonStep<'_>,
    space: &mut Workspace,
    slots: &mut [MuonSlot<'_>],
    stack: &[(usize, usize)],
) -> Result<()> {
    let u_knm = updates(step, space, slots, stack)?;
    let o_knm = polar::wide_factor(space, u_knm, step.options)?;
    for run in stack_runs(stack, slots) {
        let count = run.len() as i64;
        let o_knm = o_knm.f_narrow(0, run.start as i64, count).during(OP)?;
        apply(step, space, slots, &stack[run], &o_knm)?;
    }
    space.give(o_knm);
    Ok(())
}

/// Moves the momentum of the blocks of a stack and returns their updates, all wide.
fn updates(
    step: &MuonStep<'_>,
    space: &mut Workspace,
    slots: &mut [MuonSlot<'_>],
    stack: &[(usize, usize)],
) -> Result<Buffer> {
    let (slot, block) = stack[0];
    let MatrixBlock { rows, cols, .. } = slots[slot].state.blocks[block];
    let first = &slots[slot].state.momentum_buffer;
    let (kind, device) = (first.kind(), first.device());
    let shape = [stack.len() as i64, rows.min(cols), rows.max(cols)];
    let u_knm = space.take(&shape, kind, device)?;
    for (index, &(slot, block)) in stack.iter().enumerate() {
        let slot = &mut slots[slot];
        let block = slot.state.blocks[block];
        let wide = u_knm.f_get(index as i64).during(OP)?;
        let u = if block.is_tall() { wide.f_transpose(0, 1).during(OP)? } else { wide };
        update(step, slot, block, u)?;
    }
    Ok(u_knm)
}

/// Moves a block's momentum, and writes its update to `u`.
fn update(
    step: &MuonStep<'_>,
    slot: &MuonSlot<'_>,
    block: MatrixBlock,
    mut u: Tensor,
) -> Result<()> {
    let mut m = block.of(&slot.state.momentum_buffer)?;
    let scalars = step.scalars.unbind(slot.index, m.kind())?;
    let g = block.of(&slot.grad.detach())?.f_to_kind(m.kind()).during(OP)?;
    let g = step.scale.apply(g)?;
    Ok(kernel::momentum_update_reference(&scalars, step.config.nesterov, &g, &mut m, &mut u)?)
}

/// Moves the momentum of a block that does not move itself.
pub(super) fn move_momentum(
    step: &MuonStep<'_>,
    _: &mut Workspace,
    slot: &mut MuonSlot<'_>,
    block: MatrixBlock,
) -> Result<()> {
    let unused = block.of(&slot.state.momentum_buffer)?.f_empty_like().during(OP)?;
    update(step, slot, block, unused)
}

/// Moves the exact weights of a run of equal blocks by `-lr * scale * o`, after decay.
fn apply(
    step: &MuonStep<'_>,
    space: &mut Workspace,
    slots: &mut [MuonSlot<'_>],
    run: &[(usize, usize)],
    o_knm: &Tensor,
) -> Result<()> {
    let (slot, block) = run[0];
    let MatrixBlock { rows, cols, .. } = slots[slot].state.blocks[block];
    let kind = slots[slot].state.momentum_buffer.kind();
    let turned =
        if rows > cols { o_knm.f_transpose(1, 2).during(OP)? } else { o_knm.shallow_clone() };
    let mut o_krc = if rows <= cols && turned.kind() == kind {
        Buffer::from(turned)
    } else {
        let shape = [run.len() as i64, rows, cols];
        let mut copy = space.take(&shape, kind, o_knm.device())?;
        copy.f_copy_(&turned).during(OP)?;
        copy
    };
    if let Some(norm) = &step.config.normuon {
        let stats: Vec<&Tensor> = run
            .iter()
            .map(|&(slot, block)| &slots[slot].state.second_momentum_buffer[block])
            .collect();
        let mut stats_k = Tensor::f_stack(&stats, 0).during(OP)?;
        normalize_neurons(&mut o_krc, &mut stats_k, norm, &step.scalars.stats_weight)?;
        for (index, &(slot, block)) in run.iter().enumerate() {
            let new = stats_k.f_get(index as i64).during(OP)?;
            slots[slot].state.second_momentum_buffer[block].f_copy_(&new).during(OP)?;
        }
    }
    step.config.scale.apply(&mut o_krc)?;
    for (index, &(slot, block)) in run.iter().enumerate() {
        let mut o_rc = o_krc.f_get(index as i64).during(OP)?;
        move_block(step, &mut slots[slot], block, &mut o_rc)?;
    }
    space.give(o_krc);
    Ok(())
}

/// Decays a block's exact weight and moves it by `-lr * o`. `o_rc` is used up.
fn move_block(
    step: &MuonStep<'_>,
    slot: &mut MuonSlot<'_>,
    block: usize,
    o_rc: &mut Tensor,
) -> Result<()> {
    let block = slot.state.blocks[block];
    let whole = masters::read(slot.param, slot.low.as_deref())?;
    let mut p = block.of(&whole)?;
    let scalars = step.scalars.unbind(slot.index, p.kind())?;
    kernel::apply_update_reference(&scalars, step.config.cautious, o_rc, &mut p)?;
    if slot.low.is_some() {
        masters::write(slot.param, slot.low.as_deref_mut(), &whole)?;
    }
    Ok(())
}

/// Makes a working weight of lower precision follow its master, once for all blocks.
pub(super) fn round_weight(slot: &mut MuonSlot<'_>) -> Result<()> {
    if slot.low.is_none()
        && let Some(master) = slot.param.master.as_ref().map(Tensor::shallow_clone)
    {
        masters::write(slot.param, None, &master)?;
    }
    Ok(())
}
