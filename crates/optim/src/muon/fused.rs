//! Muon with few passes over memory around the products: [`bert4rs_kernels::muon`].

use bert4rs_kernels::muon::{self as kernel, MomentumArgs, UpdateArgs};
use bert4rs_kernels::weight::Weight;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Tensor};

use super::stack::MatrixBlock;
use super::{LrScale, MuonSlot, MuonStep, OP};
use crate::error::Result;
use crate::implementation::kernel_grad;
use crate::normuon::{NorMuonConfig, normuon_scale};
use crate::polar::{PolarPlan, Workspace};

/// One step of the blocks of `stack`, working weights included.
pub(super) fn step_stack(
    step: &MuonStep<'_>,
    space: &mut Workspace,
    slots: &mut [MuonSlot<'_>],
    stack: &[(usize, usize)],
) -> Result<()> {
    let (slot, block) = stack[0];
    let MatrixBlock { rows, cols, .. } = slots[slot].state.blocks[block];
    let momentum = &slots[slot].state.momentum_buffer;
    let (kind, device) = (momentum.kind(), momentum.device());
    let shape = [stack.len() as i64, rows.min(cols), rows.max(cols)];
    let options = step.options;
    let plan = PolarPlan::of(shape, kind, device, options);
    let x_knm = space.take(&shape, plan.kind(), device)?;
    for (index, &(slot, block)) in stack.iter().enumerate() {
        let slot = &mut slots[slot];
        let block = slot.state.blocks[block];
        let args = momentum_args(step, slot.index);
        let grad = kernel_grad(&block.of(&slot.grad.detach())?)?;
        let mut x_nm = x_knm.f_get(index as i64).during(OP)?;
        kernel::momentum_update(
            &args,
            &grad,
            &mut block.of(&slot.state.momentum_buffer)?,
            &mut x_nm,
        )?;
    }
    let o_knm = plan.run(space, x_knm, options)?;
    for (index, &(slot, block)) in stack.iter().enumerate() {
        let o_nm = o_knm.f_get(index as i64).during(OP)?;
        apply(step, &mut slots[slot], block, &o_nm)?;
    }
    space.give(o_knm);
    Ok(())
}

/// Of the parameter `index`.
fn momentum_args<'a>(step: &MuonStep<'a>, index: usize) -> MomentumArgs<'a> {
    MomentumArgs {
        numbers: step.scalars.float(index),
        nesterov: step.config.nesterov,
        norm_factor: step.options.coefficients.norm_factor(),
    }
}

/// Moves the momentum of a block that does not move itself.
pub(super) fn move_momentum(
    step: &MuonStep<'_>,
    space: &mut Workspace,
    slot: &mut MuonSlot<'_>,
    block: MatrixBlock,
) -> Result<()> {
    let MatrixBlock { rows, cols, .. } = block;
    let grad = kernel_grad(&block.of(&slot.grad.detach())?)?;
    let mut momentum = block.of(&slot.state.momentum_buffer)?;
    let shape = [rows.min(cols), rows.max(cols)];
    let mut unused_nm = space.take(&shape, momentum.kind(), momentum.device())?;
    let args = momentum_args(step, slot.index);
    kernel::momentum_update(&args, &grad, &mut momentum, &mut unused_nm)?;
    space.give(unused_nm);
    Ok(())
}

/// Decays a block and moves it by `-lr * scale * o`, after NorMuon's second stage.
fn apply(step: &MuonStep<'_>, slot: &mut MuonSlot<'_>, index: usize, o_nm: &Tensor) -> Result<()> {
    let block = slot.state.blocks[index];
    let stats = slot.state.second_momentum_buffer.get_mut(index);
    let sides = factors(step, block, stats, o_nm)?;
    let args = UpdateArgs {
        numbers: step.scalars.float(slot.index),
        factor: step.config.scale.by_shape(block.rows, block.cols) as f32,
        row: sides.row.as_ref(),
        col: sides.col.as_ref(),
        cautious: step.config.cautious,
    };
    let mut weight = block.of(&slot.param.weight.detach())?;
    match (&slot.param.master, &slot.low) {
        (_, Some(low)) => {
            let mut low = block.of(low)?;
            kernel::apply_update(
                &args,
                o_nm,
                Weight::Bf16Residual { weight: &mut weight, residual: &mut low },
            )?;
        }
        (Some(master), None) => {
            let master = &mut block.of(master)?;
            kernel::apply_update(&args, o_nm, Weight::Master { master, weight: &mut weight })?;
        }
        (None, None) => kernel::apply_update(&args, o_nm, Weight::Single(&mut weight))?,
    }
    Ok(())
}

/// What an update's rows and columns are multiplied by, FP32; 1 if absent.
#[derive(Default)]
struct Sides {
    row: Option<Tensor>,
    col: Option<Tensor>,
}

/// NorMuon's factors, and that of a known norm. All sums stay on the device.
fn factors(
    step: &MuonStep<'_>,
    block: MatrixBlock,
    stats: Option<&mut Tensor>,
    o_nm: &Tensor,
) -> Result<Sides> {
    let MatrixBlock { rows, cols, .. } = block;
    let config = step.config;
    let needs_norm = config.scale == LrScale::UpdateRms;
    if config.normuon.is_none() && !needs_norm {
        return Ok(Sides::default());
    }
    let axis = config.normuon.map_or(2, |norm| norm.axis.reduced(rows, cols));
    // Columns of what lies transposed are the weight's rows.
    let squares = kernel::sums_of_squares(o_nm, block.is_tall() == (axis == 2))?;
    let mut factors = match (&config.normuon, stats) {
        (Some(norm), Some(stats)) => {
            let count = if axis == 2 { cols } else { rows };
            scale(norm, &squares, stats, (&step.scalars.stats_weight, count as f64))?
        }
        _ => squares.f_ones_like().during(OP)?,
    };
    if needs_norm {
        // The second stage keeps the norm.
        let norm = squares.f_sum(Kind::Double).during(OP)?.f_sqrt().during(OP)?;
        let norm = norm.f_clamp_min(f64::from(f32::MIN_POSITIVE)).during(OP)?;
        let rms = norm.f_reciprocal().during(OP)? * (0.2 * ((rows * cols) as f64).sqrt());
        factors = factors.f_mul(&rms).during(OP)?;
    }
    Ok(match axis {
        2 => Sides { row: Some(factors), col: None },
        _ => Sides { row: None, col: Some(factors) },
    })
}

/// NorMuon's factor for each neuron, from its sum of squares over `count` values.
fn scale(
    norm: &NorMuonConfig,
    squares: &Tensor,
    stats: &mut Tensor,
    (weight, count): (&Tensor, f64),
) -> Result<Tensor> {
    let mean = squares.f_div_scalar(count).during(OP)?;
    let mean_krc = mean.f_view_as(stats).during(OP)?.f_unsqueeze(0).during(OP)?;
    let mut stats_krc = stats.f_unsqueeze(0).during(OP)?;
    let scale = normuon_scale(mean_krc, &mut stats_krc, norm, (weight, count))?;
    Ok(scale.f_view(-1).during(OP)?)
}
