//! Before the products, on the CPU: the momentum moves, and the update is written at its norm.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::{Kind, Result, Tensor, parallel};
use half::bf16;

use super::{CHUNK, LANES, TILE};
use crate::cpu::isa::{Isa, multiversioned};
use crate::cpu::number::Number;
use crate::cpu::views;
use crate::muon::{MomentumArgs, MuonKernelScalars, is_transposed};

/// [`MomentumArgs`] with its scalars read.
#[derive(Clone, Copy)]
struct Momentum {
    one_minus_momentum: f32,
    grad_scale: f32,
    nesterov: bool,
}

/// See [`crate::muon::momentum_update`], which has checked the shapes; `rows` by `cols` are those
/// of `grad`.
pub(in crate::muon) fn momentum_update(
    args: &MomentumArgs<'_>,
    grad: &Tensor,
    momentum: &mut Tensor,
    x_nm: &mut Tensor,
    sides: (usize, usize),
) -> Result<()> {
    match (grad.kind(), x_nm.kind()) {
        (Kind::BFloat16, Kind::BFloat16) => {
            momentum_with::<bf16, bf16>(args, grad, momentum, x_nm, sides)
        }
        (Kind::BFloat16, _) => momentum_with::<bf16, f32>(args, grad, momentum, x_nm, sides),
        (_, Kind::BFloat16) => momentum_with::<f32, bf16>(args, grad, momentum, x_nm, sides),
        _ => momentum_with::<f32, f32>(args, grad, momentum, x_nm, sides),
    }
}

fn momentum_with<G: Number, O: Number>(
    args: &MomentumArgs<'_>,
    grad: &Tensor,
    momentum: &mut Tensor,
    x_nm: &mut Tensor,
    (rows, cols): (usize, usize),
) -> Result<()> {
    let transposed = is_transposed(rows, cols);
    let grad: &[G] = views::read(grad, "a gradient")?;
    let momentum: &mut [f32] = views::write(momentum, "a momentum")?;
    let x: &mut [O] = views::write(x_nm, "an update")?;
    let MuonKernelScalars { one_minus_momentum, grad_scale, .. } =
        MuonKernelScalars::read(args.numbers)?;
    let (isa, norm_factor) = (Isa::fastest(), args.norm_factor);
    let args = &Momentum { one_minus_momentum, grad_scale, nesterov: args.nesterov };
    // Summed in order, so that the result does not depend on the threads.
    let chunks = momentum.chunks_mut(CHUNK).zip(grad.chunks(CHUNK)).collect();
    let sums = parallel::map_of(chunks, |(m, g)| move_momentum(isa, args, g, m));
    let norm = sums.iter().sum::<f64>().sqrt() * norm_factor;
    let inverse = (1.0 / norm.max(f64::from(f32::MIN_POSITIVE))) as f32;
    let momentum = &*momentum;
    if transposed {
        let bands = x.chunks_mut(TILE * rows).enumerate().collect();
        parallel::for_each_of(bands, |(band, x)| {
            let from = TransposedBand { grad, momentum, rows, cols, col: band * TILE };
            write_transposed(isa, args, inverse, &from, x);
        });
    } else {
        let from = momentum.chunks(CHUNK).zip(grad.chunks(CHUNK));
        let chunks = x.chunks_mut(CHUNK).zip(from).collect();
        parallel::for_each_of(chunks, |(x, (m, g))| write_update(isa, args, inverse, g, m, x));
    }
    Ok(())
}

impl Momentum {
    /// A gradient's value, scaled.
    #[inline(always)]
    fn scaled(&self, g: f32) -> f32 {
        if self.grad_scale == 0.0 { 0.0 } else { g * self.grad_scale }
    }

    /// The update from the momentum already moved.
    #[inline(always)]
    fn update(&self, g: f32, m: f32) -> f32 {
        if self.nesterov { m - self.one_minus_momentum * (m - self.scaled(g)) } else { m }
    }
}

#[inline(always)]
fn move_momentum_body<G: Number>(args: &Momentum, grad: &[G], momentum: &mut [f32]) -> f64 {
    let args = *args;
    let mut total = 0.0;
    // Sums of few squares at a time, so that FP32 lanes hold them to their last bits.
    for (grad, momentum) in grad.chunks(CHUNK / 16).zip(momentum.chunks_mut(CHUNK / 16)) {
        let mut sums = [0f64; LANES];
        let mut add = |lane: usize, g: G, m: &mut f32| {
            *m += args.one_minus_momentum * (args.scaled(g.widen()) - *m);
            let u = f64::from(args.update(g.widen(), *m));
            sums[lane] += u * u;
        };
        for (grad, momentum) in grad.chunks(LANES).zip(momentum.chunks_mut(LANES)) {
            for (lane, (&g, m)) in grad.iter().zip(momentum).enumerate() {
                add(lane, g, m);
            }
        }
        total += sums.iter().sum::<f64>();
    }
    total
}

multiversioned! {
    /// Moves the momentum; returns the sum of squares of the update.
    fn move_momentum[G: Number][G](args: &Momentum, grad: &[G], momentum: &mut [f32]) -> f64
        = move_momentum_body
}

#[inline(always)]
fn write_update_body<G: Number, O: Number>(
    args: &Momentum,
    inverse: f32,
    grad: &[G],
    momentum: &[f32],
    x: &mut [O],
) {
    let args = *args;
    for ((x, &g), &m) in x.iter_mut().zip(grad).zip(momentum) {
        *x = O::round(args.update(g.widen(), m) * inverse);
    }
}

multiversioned! {
    /// Writes the update, scaled.
    fn write_update[G: Number, O: Number][G, O](
        args: &Momentum, inverse: f32, grad: &[G], momentum: &[f32], x: &mut [O],
    ) = write_update_body
}

/// A matrix of which a band of columns, from `col` on, is written as rows.
struct TransposedBand<'a, G> {
    grad: &'a [G],
    momentum: &'a [f32],
    rows: usize,
    cols: usize,
    col: usize,
}

#[inline(always)]
fn write_transposed_body<G: Number, O: Number>(
    args: &Momentum,
    inverse: f32,
    from: &TransposedBand<'_, G>,
    x: &mut [O],
) {
    let args = *args;
    let width = TILE.min(from.cols - from.col);
    let mut tile = [[0f32; TILE]; TILE];
    for row in (0..from.rows).step_by(TILE) {
        let height = TILE.min(from.rows - row);
        for (i, tile) in tile.iter_mut().enumerate().take(height) {
            let start = (row + i) * from.cols + from.col;
            let values = from.grad[start..][..width].iter().zip(&from.momentum[start..][..width]);
            for (value, (&g, &m)) in tile.iter_mut().zip(values) {
                *value = args.update(g.widen(), m) * inverse;
            }
        }
        for (j, x) in x.chunks_mut(from.rows).enumerate().take(width) {
            for (x, tile) in x[row..][..height].iter_mut().zip(&tile) {
                *x = O::round(tile[j]);
            }
        }
    }
}

multiversioned! {
    /// Writes a band of the transposed update, scaled.
    fn write_transposed[G: Number, O: Number][G, O](
        args: &Momentum, inverse: f32, from: &TransposedBand<'_, G>, x: &mut [O],
    ) = write_transposed_body
}
