//! The forward pass.

#![expect(unsafe_code, reason = "one tensor written by many, and calls by instruction set")]

use std::ops::Range;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Result, Tensor, parallel};

use super::{HeadViews, RotationTables, at, inverse_rms, pair, task_of, tasks};
use crate::cpu::isa::Isa;
use crate::cpu::lanes::{LANES, Lanes, vectorized};
use crate::cpu::number::Number;
use crate::cpu::tail::{whole, write};
use crate::cpu::views::{self, SharedSlice};
use crate::rotary::OP;

/// `y` of `x`; `rest` are cosines, sines and the norm's weight if any.
pub(in crate::rotary) fn forward<T: Number>(
    isa: Isa,
    x: &Tensor,
    rest: &[Tensor],
    eps: Option<f32>,
) -> Result<Tensor> {
    let mut y = Tensor::f_empty(x.size(), (x.kind(), x.device())).during(OP)?;
    let heads = HeadViews::<T>::new(x, "heads")?;
    let tables = RotationTables::<T>::new(rest, eps)?;
    let out = SharedSlice::new(views::write::<T>(&mut y, "rotated heads")?);
    let (places, width) = (heads.places(), heads.width());
    parallel::for_each(tasks(places), |task| {
        let part = task_of(places, task);
        // SAFETY: each task has places of its own.
        let out = unsafe { out.part(part.start * width, part.len() * width) };
        forward_on::<T>(isa, heads, tables, part, out);
    });
    Ok(y)
}

vectorized! {
    /// [`forward_places`] on `isa`.
    fn forward_on[T: Number][T](
        x: HeadViews<'_, T>,
        tables: RotationTables<'_, T>,
        places: Range<usize>,
        out: &mut [T],
    ) = forward_places
}

#[inline(always)]
fn forward_places<V: Lanes, T: Number>(
    x: HeadViews<'_, T>,
    tables: RotationTables<'_, T>,
    places: Range<usize>,
    out: &mut [T],
) {
    let [_, _, count, features] = x.sizes;
    let mut outs = out.chunks_exact_mut(features);
    for place in places {
        let angles = tables.angles(place, features);
        for (head, out) in (0..count).zip(&mut outs) {
            let x = x.head(place, head);
            let scale = match tables.weight {
                Some(_) => inverse_rms::<V, T>(x, tables.eps),
                None => 1.0,
            };
            let x_grad = Turn { x, angles, weight: tables.weight, scale: V::splat(scale) };
            let half = features / 2;
            for first in (0..whole(half)).step_by(LANES) {
                x_grad.write::<false>(first..first + LANES, out);
            }
            if whole(half) < half {
                x_grad.write::<true>(whole(half)..half, out);
            }
        }
    }
}

/// One head on its way forward.
struct Turn<'a, V, T> {
    x: &'a [T],
    angles: [&'a [T]; 2],
    weight: Option<&'a [T]>,
    scale: V,
}

impl<V: Lanes, T: Number> Turn<'_, V, T> {
    /// `n`
    #[inline(always)]
    fn normed<const TAIL: bool>(&self, place: &Range<usize>) -> V {
        let scaled = at::<V, T, TAIL>(self.x, place).mul(self.scale);
        match self.weight {
            Some(weight) => scaled.mul(at::<V, T, TAIL>(weight, place)),
            None => scaled,
        }
    }

    /// Writes some features of the first half, and their pairs.
    #[inline(always)]
    fn write<const TAIL: bool>(&self, first: Range<usize>, out: &mut [T]) {
        let second = pair(&first, self.x.len());
        let [cos, sin] = self.angles;
        let (n_i, n_j) = (self.normed::<TAIL>(&first), self.normed::<TAIL>(&second));
        let crossed = n_j.mul(at::<V, T, TAIL>(sin, &first));
        let y_i = n_i.mul(at::<V, T, TAIL>(cos, &first)).sub(crossed);
        let crossed = n_i.mul(at::<V, T, TAIL>(sin, &second));
        let y_j = n_j.mul(at::<V, T, TAIL>(cos, &second)).add(crossed);
        write::<V, T, TAIL>(y_i, &mut out[first]);
        write::<V, T, TAIL>(y_j, &mut out[second]);
    }
}
