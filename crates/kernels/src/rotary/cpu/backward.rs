//! The backward pass: through the rotation, and through the norm before it if there is one.

#![expect(unsafe_code, reason = "one tensor written by many, and calls by instruction set")]

use std::ops::Range;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Error, Result, Tensor, parallel};

use super::{HeadViews, RotationTables, at, inverse_rms, pair, task_of, tasks};
use crate::cpu::isa::Isa;
use crate::cpu::lanes::{LANES, Lanes, vectorized};
use crate::cpu::number::Number;
use crate::cpu::tail::{whole, write};
use crate::cpu::views::{self, SharedSlice};
use crate::rotary::OP;

/// The gradients of `x` and of the norm's weight; `saved` are cosines, sines, and, where there is
/// a norm, its weight and `x`.
pub(in crate::rotary) fn backward<T: Number>(
    isa: Isa,
    grad: &Tensor,
    saved: &[Tensor],
    eps: Option<f32>,
) -> Result<(Tensor, Option<Tensor>)> {
    let mut x_grad = Tensor::f_empty(grad.size(), (grad.kind(), grad.device())).during(OP)?;
    let y_grad = HeadViews::<T>::new(grad, "a gradient")?;
    let tables = RotationTables::<T>::new(saved, eps)?;
    let x = eps.map(|_| HeadViews::<T>::new(&saved[3], "heads")).transpose()?;
    if x.is_some_and(|x| x.sizes != y_grad.sizes) {
        let expected = format!("{:?}", saved[3].size());
        return Err(Error::Shape { op: OP, tensor: "gradient", found: grad.size(), expected });
    }
    let out = SharedSlice::new(views::write::<T>(&mut x_grad, "a gradient")?);
    let (places, width, features) = (y_grad.places(), y_grad.width(), y_grad.sizes[3]);
    let sums: Vec<Vec<f32>> = parallel::map(tasks(places), |task| {
        let part = task_of(places, task);
        // SAFETY: each task has places of its own.
        let out = unsafe { out.part(part.start * width, part.len() * width) };
        let mut weight_grad = vec![0.0; if eps.is_some() { features } else { 0 }];
        backward_on::<T>(isa, (y_grad, x), tables, part, out, &mut weight_grad);
        weight_grad
    });
    let weight_grad = eps.map(|_| -> Result<Tensor> {
        let mut weight_grad = saved[2].f_empty_like().during(OP)?;
        let out = views::write::<T>(&mut weight_grad, "a gradient")?;
        for (feature, out) in out.iter_mut().enumerate() {
            *out = T::round(sums.iter().map(|sums| sums[feature]).sum());
        }
        Ok(weight_grad)
    });
    Ok((x_grad, weight_grad.transpose()?))
}

vectorized! {
    /// [`backward_places`] on `isa`.
    fn backward_on[T: Number][T](
        heads: (HeadViews<'_, T>, Option<HeadViews<'_, T>>),
        tables: RotationTables<'_, T>,
        places: Range<usize>,
        out: &mut [T],
        weight_grad: &mut [f32],
    ) = backward_places
}

/// The gradients of `y`, and `x` where there is a norm.
#[inline(always)]
fn backward_places<V: Lanes, T: Number>(
    (y_grad, x): (HeadViews<'_, T>, Option<HeadViews<'_, T>>),
    tables: RotationTables<'_, T>,
    places: Range<usize>,
    out: &mut [T],
    weight_grad: &mut [f32],
) {
    let [_, _, count, features] = y_grad.sizes;
    let mut outs = out.chunks_exact_mut(features);
    for place in places {
        let angles = tables.angles(place, features);
        for (head, out) in (0..count).zip(&mut outs) {
            let back = Back { y_grad: y_grad.head(place, head), angles };
            match x.zip(tables.weight) {
                None => back.write::<V>(out),
                Some((x, weight)) => {
                    let normed = Normed { back, x: x.head(place, head), weight, eps: tables.eps };
                    normed.write::<V>(out, weight_grad);
                }
            }
        }
    }
}

/// One head on its way backward.
struct Back<'a, T> {
    y_grad: &'a [T],
    angles: [&'a [T]; 2],
}

impl<T: Number> Back<'_, T> {
    /// `dn` of some features of the first half, and of their pairs.
    #[inline(always)]
    fn normed_grad<V: Lanes, const TAIL: bool>(
        &self,
        [first, second]: &[Range<usize>; 2],
    ) -> [V; 2] {
        let [cos, sin] = self.angles;
        let (dy_i, dy_j) =
            (at::<V, T, TAIL>(self.y_grad, first), at::<V, T, TAIL>(self.y_grad, second));
        let crossed = dy_j.mul(at::<V, T, TAIL>(sin, second));
        let dn_i = dy_i.mul(at::<V, T, TAIL>(cos, first)).add(crossed);
        let crossed = dy_i.mul(at::<V, T, TAIL>(sin, first));
        let dn_j = dy_j.mul(at::<V, T, TAIL>(cos, second)).sub(crossed);
        [dn_i, dn_j]
    }

    /// Writes all of `dn`, which is `dx` where there is no norm.
    #[inline(always)]
    fn write<V: Lanes>(&self, out: &mut [T]) {
        let half = out.len() / 2;
        for first in (0..whole(half)).step_by(LANES) {
            self.write_some::<V, false>(first..first + LANES, out);
        }
        if whole(half) < half {
            self.write_some::<V, true>(whole(half)..half, out);
        }
    }

    #[inline(always)]
    fn write_some<V: Lanes, const TAIL: bool>(&self, first: Range<usize>, out: &mut [T]) {
        let places = [first.clone(), pair(&first, out.len())];
        let found = self.normed_grad::<V, TAIL>(&places);
        for (place, found) in places.into_iter().zip(found) {
            write::<V, T, TAIL>(found, &mut out[place]);
        }
    }
}

/// One head on its way backward through its norm too.
struct Normed<'a, T> {
    back: Back<'a, T>,
    x: &'a [T],
    weight: &'a [T],
    eps: f32,
}

impl<T: Number> Normed<'_, T> {
    /// Writes `dx`, and adds to the gradient of the weight.
    #[inline(always)]
    fn write<V: Lanes>(&self, out: &mut [T], weight_grad: &mut [f32]) {
        let scale = V::splat(inverse_rms::<V, T>(self.x, self.eps));
        let half = out.len() / 2;
        let mut with_z = V::splat(0.0);
        for first in (0..whole(half)).step_by(LANES) {
            with_z = self.sum::<V, false>(first..first + LANES, scale, with_z, weight_grad);
        }
        if whole(half) < half {
            with_z = self.sum::<V, true>(whole(half)..half, scale, with_z, weight_grad);
        }
        let mean = V::splat(with_z.sum() / self.x.len() as f32);
        for first in (0..whole(half)).step_by(LANES) {
            self.write_some::<V, false>(first..first + LANES, [scale, mean], out);
        }
        if whole(half) < half {
            self.write_some::<V, true>(whole(half)..half, [scale, mean], out);
        }
    }

    /// `with_z` and `Σ g z` of some features and their pairs, whose `dn z` go to `weight_grad`.
    #[inline(always)]
    fn sum<V: Lanes, const TAIL: bool>(
        &self,
        first: Range<usize>,
        scale: V,
        mut with_z: V,
        weight_grad: &mut [f32],
    ) -> V {
        let places = [first.clone(), pair(&first, self.x.len())];
        let normed_grad = self.back.normed_grad::<V, TAIL>(&places);
        for (place, of_n) in places.iter().zip(normed_grad) {
            let z = at::<V, T, TAIL>(self.x, place).mul(scale);
            with_z = of_n.mul(at::<V, T, TAIL>(self.weight, place)).mul_add(z, with_z);
            let sum = of_n.mul_add(z, at::<V, f32, TAIL>(weight_grad, place));
            write::<V, f32, TAIL>(sum, &mut weight_grad[place.clone()]);
        }
        with_z
    }

    /// `dx` of some features and their pairs.
    #[inline(always)]
    fn write_some<V: Lanes, const TAIL: bool>(
        &self,
        first: Range<usize>,
        [scale, mean]: [V; 2],
        out: &mut [T],
    ) {
        let places = [first.clone(), pair(&first, self.x.len())];
        let normed_grad = self.back.normed_grad::<V, TAIL>(&places);
        for (place, of_n) in places.into_iter().zip(normed_grad) {
            let off = at::<V, T, TAIL>(self.x, &place).mul(scale).mul(mean);
            let x_grad = of_n.mul(at::<V, T, TAIL>(self.weight, &place)).sub(off).mul(scale);
            write::<V, T, TAIL>(x_grad, &mut out[place]);
        }
    }
}
