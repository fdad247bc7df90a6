//! On the CPU: all values of all parameters, in pieces.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::{Kind, Result, parallel};
use half::bf16;

use super::{AdamwKernelScalars, OP, ParamUpdate};
use crate::cpu::isa::{Isa, multiversioned};
use crate::cpu::number::Number;
use crate::cpu::views;
use crate::weight::{MasterSlices, ResidualSlices, SingleSlices, Weight, WeightSlices, same_count};

/// Values a task takes at a time: its five streams fit a core's second-level cache.
const CHUNK: usize = 1 << 14;

/// One step for all `updates`, which share no memory, on `isa`.
pub(super) fn step(isa: Isa, updates: Vec<ParamUpdate<'_>>) -> Result<()> {
    let mut pieces = Vec::new();
    for update in updates {
        cut_update(update, &mut pieces)?;
    }
    parallel::for_each_of(pieces, |piece| piece.run(isa));
    Ok(())
}

/// The update of the module's head, over slices of one length.
#[inline(always)]
fn update_body<G: Number, W: WeightSlices>(
    scalars: &AdamwKernelScalars,
    cautious: bool,
    grad: &[G],
    moment1: &mut [f32],
    moment2: &mut [f32],
    weight: &mut W,
) {
    if cautious {
        update_values::<G, W, true>(scalars, grad, moment1, moment2, weight);
    } else {
        update_values::<G, W, false>(scalars, grad, moment1, moment2, weight);
    }
}

#[inline(always)]
fn update_values<G: Number, W: WeightSlices, const CAUTIOUS: bool>(
    scalars: &AdamwKernelScalars,
    grad: &[G],
    moment1: &mut [f32],
    moment2: &mut [f32],
    weight: &mut W,
) {
    let count = grad.len();
    let (moment1, moment2) = (&mut moment1[..count], &mut moment2[..count]);
    weight.assert_len(count);
    let s = *scalars;
    for i in 0..count {
        let g = if s.grad_scale == 0.0 { 0.0 } else { grad[i].widen() * s.grad_scale };
        let m = moment1[i] + s.one_minus_beta1 * (g - moment1[i]);
        let v = s.beta2 * moment2[i] + s.one_minus_beta2 * (g * g);
        moment1[i] = m;
        moment2[i] = v;
        let u = m / (v.sqrt() * s.inverse_sqrt_correction2 + s.eps);
        let p = weight.load(i);
        let decay_factor = if CAUTIOUS && u * p <= 0.0 { 1.0 } else { s.decay_factor };
        weight.store(i, p * decay_factor - s.step_size * u);
    }
}

multiversioned! {
    /// [`update_body`] on `isa`.
    fn update_on[G: Number, W: WeightSlices][G, W](
        scalars: &AdamwKernelScalars,
        cautious: bool,
        grad: &[G],
        moment1: &mut [f32],
        moment2: &mut [f32],
        weight: &mut W,
    ) = update_body
}

/// An update, or a part of one, as slices.
struct Part<'a, G, W> {
    scalars: AdamwKernelScalars,
    cautious: bool,
    grad: &'a [G],
    moment1: &'a mut [f32],
    moment2: &'a mut [f32],
    weight: W,
}

/// A [`Part`] of whatever types.
trait Runnable: Send {
    fn run(self: Box<Self>, isa: Isa);
}

impl<G: Number, W: WeightSlices> Runnable for Part<'_, G, W> {
    fn run(mut self: Box<Self>, isa: Isa) {
        let Self { scalars, cautious, grad, moment1, moment2, weight } = &mut *self;
        update_on(isa, scalars, *cautious, grad, moment1, moment2, weight);
    }
}

type Streams<'a, G> = (AdamwKernelScalars, bool, &'a [G], &'a mut [f32], &'a mut [f32]);

impl<'a, G: Number + 'a, W: WeightSlices + 'a> Part<'a, G, W> {
    fn new((scalars, cautious, grad, moment1, moment2): Streams<'a, G>, weight: W) -> Self {
        Self { scalars, cautious, grad, moment1, moment2, weight }
    }

    /// Cuts the part into pieces of [`CHUNK`] values.
    fn cut(mut self, pieces: &mut Vec<Box<dyn Runnable + 'a>>) {
        while self.grad.len() > CHUNK {
            let (grad, grad_tail) = self.grad.split_at(CHUNK);
            let (moment1, moment1_tail) = self.moment1.split_at_mut(CHUNK);
            let (moment2, moment2_tail) = self.moment2.split_at_mut(CHUNK);
            let (weight, weight_tail) = self.weight.split_at(CHUNK);
            let (scalars, cautious) = (self.scalars, self.cautious);
            pieces.push(Box::new(Self { scalars, cautious, grad, moment1, moment2, weight }));
            self = Self {
                scalars,
                cautious,
                grad: grad_tail,
                moment1: moment1_tail,
                moment2: moment2_tail,
                weight: weight_tail,
            };
        }
        pieces.push(Box::new(self));
    }
}

fn cut_update<'a>(update: ParamUpdate<'a>, pieces: &mut Vec<Box<dyn Runnable + 'a>>) -> Result<()> {
    match update.grad.kind() {
        Kind::BFloat16 => cut_with::<bf16>(update, pieces),
        _ => cut_with::<f32>(update, pieces),
    }
}

fn cut_with<'a, G: Number>(
    update: ParamUpdate<'a>,
    pieces: &mut Vec<Box<dyn Runnable + 'a>>,
) -> Result<()> {
    let grad: &[G] = views::read(update.grad, "a gradient")?;
    let moment1 = views::write(update.moment1, "a first moment")?;
    let moment2 = views::write(update.moment2, "a second moment")?;
    let count = grad.len();
    same_count(OP, count, moment1.len(), "first moment")?;
    same_count(OP, count, moment2.len(), "second moment")?;
    let (scalars, cautious) = (AdamwKernelScalars::read(update.numbers)?, update.cautious);
    let part = (scalars, cautious, grad, moment1, moment2);
    match update.weight {
        Weight::Single(weight) => {
            let weight = views::write(weight, "a weight")?;
            same_count(OP, count, weight.len(), "weight")?;
            Part::new(part, SingleSlices(weight)).cut(pieces);
        }
        Weight::Master { master, weight } => {
            let master = views::write(master, "a master weight")?;
            let weight = views::write(weight, "a weight")?;
            same_count(OP, count, master.len(), "master weight")?;
            same_count(OP, count, weight.len(), "weight")?;
            Part::new(part, MasterSlices { master, weight }).cut(pieces);
        }
        Weight::Bf16Residual { weight, residual: low } => {
            let weight = views::write(weight, "a weight")?;
            let low = views::write(low, "low bits of a weight")?;
            same_count(OP, count, weight.len(), "weight")?;
            same_count(OP, count, low.len(), "low bits")?;
            Part::new(part, ResidualSlices { weight, low }).cut(pieces);
        }
    }
    Ok(())
}
