//! Muon with few passes over memory around the products: [`bert4rs_kernels::muon`], on CPUs.

use bert4rs_kernels::muon::{self as kernel, Blend, Move};
use bert4rs_kernels::weight::Weight;
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::error::Context;

use super::stack::Block;
use super::{LrScale, MuonConfig, MuonSlot, Numbers, OP};
use crate::adamw::kernel_grad;
use crate::error::Result;
use crate::neuron::{NeuronNorm, neuron_scale};
use crate::polar::{Plan, Workspace};

/// One step of the blocks of `stack`, working weights included.
pub(super) fn step_stack(
    config: &MuonConfig,
    numbers: &Numbers,
    space: &mut Workspace,
    slots: &mut [MuonSlot<'_>],
    stack: &[(usize, usize)],
) -> Result<()> {
    let (slot, block) = stack[0];
    let Block { rows, cols, .. } = slots[slot].state.blocks[block];
    let momentum = &slots[slot].state.momentum;
    let (kind, device) = (momentum.kind(), momentum.device());
    let shape = [stack.len() as i64, rows.min(cols), rows.max(cols)];
    let options = config.options();
    let plan = Plan::of(shape, kind, device, &options);
    let x_knm = space.take(&shape, plan.kind(), device)?;
    let blend = Blend {
        one_minus_momentum: (1.0 - numbers.momentum) as f32,
        nesterov: config.nesterov,
        grad_scale: numbers.grad_scale as f32,
        norm_factor: options.coefficients.norm_factor(),
    };
    for (index, &(slot, block)) in stack.iter().enumerate() {
        let slot = &mut slots[slot];
        let block = slot.state.blocks[block];
        let grad = kernel_grad(&block.of(&slot.grad.detach())?)?;
        let mut x_nm = x_knm.f_get(index as i64).during(OP)?;
        kernel::gather(&blend, &grad, &mut block.of(&slot.state.momentum)?, &mut x_nm)?;
    }
    let o_knm = plan.run(space, x_knm, &options)?;
    for (index, &(slot, block)) in stack.iter().enumerate() {
        let o_nm = o_knm.f_get(index as i64).during(OP)?;
        apply(config, numbers.lr, &mut slots[slot], block, &o_nm)?;
    }
    space.give(o_knm);
    Ok(())
}

/// Decays a block and moves it by `-lr * scale * o`, after NorMuon's second stage.
fn apply(
    config: &MuonConfig,
    lr: f64,
    slot: &mut MuonSlot<'_>,
    index: usize,
    o_nm: &Tensor,
) -> Result<()> {
    let block = slot.state.blocks[index];
    let stats = slot.state.stats.get_mut(index);
    let Factors { row, col, step } = factors(config, block, stats, o_nm)?;
    let numbers = Move {
        row: &row,
        col: &col,
        step: (lr * step) as f32,
        keep: (1.0 - lr * config.weight_decay) as f32,
        cautious: config.cautious,
    };
    let mut weight = block.of(&slot.param.weight.detach())?;
    match (&slot.param.master, &slot.low) {
        (_, Some(low)) => {
            let mut low = block.of(low)?;
            kernel::apply(&numbers, o_nm, Weight::Split { weight: &mut weight, low: &mut low })?;
        }
        (Some(master), None) => {
            let master = &mut block.of(master)?;
            kernel::apply(&numbers, o_nm, Weight::Master { master, weight: &mut weight })?;
        }
        (None, None) => kernel::apply(&numbers, o_nm, Weight::Single(&mut weight))?,
    }
    Ok(())
}

/// What an update's rows, its columns and all of it are multiplied by.
struct Factors {
    row: Vec<f32>,
    col: Vec<f32>,
    step: f64,
}

fn factors(
    config: &MuonConfig,
    block: Block,
    stats: Option<&mut Tensor>,
    o_nm: &Tensor,
) -> Result<Factors> {
    let Block { rows, cols, .. } = block;
    let (mut row, mut col) = (vec![1.0; rows as usize], vec![1.0; cols as usize]);
    let axis = config.neurons.map_or(2, |norm| norm.axis.reduced(rows, cols));
    let needs_norm = config.scale == LrScale::UpdateRms;
    let mut step = config.scale.by_shape(rows, cols);
    if config.neurons.is_none() && !needs_norm {
        return Ok(Factors { row, col, step });
    }
    // Columns of what lies transposed are the weight's rows.
    let squares = kernel::sums_of_squares(o_nm, block.is_tall() == (axis == 2))?;
    if needs_norm {
        // The second stage keeps the norm.
        let norm = squares.iter().map(|&square| f64::from(square)).sum::<f64>().sqrt();
        step *= 0.2 * ((rows * cols) as f64).sqrt() / norm.max(f64::from(f32::MIN_POSITIVE));
    }
    if let (Some(norm), Some(stats)) = (&config.neurons, stats) {
        let scale = scale(norm, &squares, if axis == 2 { cols } else { rows }, stats)?;
        *(if axis == 2 { &mut row } else { &mut col }) = scale;
    }
    Ok(Factors { row, col, step })
}

/// NorMuon's factor for each neuron, from its sum of squares over `count` values.
fn scale(norm: &NeuronNorm, squares: &[f32], count: i64, stats: &mut Tensor) -> Result<Vec<f32>> {
    let mean = Tensor::f_from_slice(squares).during(OP)? / count as f64;
    let mean_krc = mean.f_view_as(stats).during(OP)?.f_unsqueeze(0).during(OP)?;
    let mut stats_krc = stats.f_unsqueeze(0).during(OP)?;
    let scale = neuron_scale(mean_krc, &mut stats_krc, norm, count as f64)?;
    Ok(Vec::try_from(scale.f_view(-1).during(OP)?).during(OP)?)
}
