//! Both passes: heads of some places in time, one after the other, each in a few vectors.

#![expect(unsafe_code, reason = "one tensor written by many, and calls by instruction set")]

use std::ops::Range;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Error, Result, Tensor, parallel};

use super::OP;
use crate::isa::Isa;
use crate::lanes::{LANES, Lanes, vectorized};
use crate::number::Number;
use crate::slices::{self, Shared};
use crate::tail::{read, whole, write};

/// Places in time of a task, at least.
const PLACES: usize = 16;
/// Tasks, at most: as many sums of weights' gradients are kept. Not the number of threads, so that
/// results do not depend on it.
const TASKS: usize = 64;

/// Heads `[b, t, h, e]`, each dense.
#[derive(Clone, Copy)]
struct HeadViews<'a, T> {
    values: &'a [T],
    strides: [usize; 4],
    sizes: [usize; 4],
}

impl<'a, T: Number> HeadViews<'a, T> {
    fn new(x: &'a Tensor, what: &str) -> Result<Self> {
        let (values, strides) = slices::read_strided::<T, 4>(x, what)?;
        let size = x.size();
        Ok(Self { values, strides, sizes: std::array::from_fn(|axis| size[axis] as usize) })
    }

    /// Places in time of the whole batch.
    fn places(&self) -> usize {
        self.sizes[0] * self.sizes[1]
    }

    /// Numbers of a place.
    fn width(&self) -> usize {
        self.sizes[2] * self.sizes[3]
    }

    #[inline(always)]
    fn head(&self, place: usize, head: usize) -> &'a [T] {
        let [_, time, _, features] = self.sizes;
        let first = place / time * self.strides[0]
            + place % time * self.strides[1]
            + head * self.strides[2];
        &self.values[first..first + features]
    }
}

/// What all heads share.
#[derive(Clone, Copy)]
struct RotationTables<'a, T> {
    cos: &'a [T],
    sin: &'a [T],
    /// Of the norm of each head.
    weight: Option<&'a [T]>,
    eps: f32,
}

impl<'a, T: Number> RotationTables<'a, T> {
    /// From cosines, sines and the weight if any, which must be dense.
    fn new(tensors: &'a [Tensor], eps: Option<f32>) -> Result<Self> {
        let weight = eps.map(|_| slices::read(&tensors[2], "a norm's weight")).transpose()?;
        let (cos, sin) = (&tensors[0], &tensors[1]);
        Ok(Self {
            cos: slices::read(cos, "cosines")?,
            sin: slices::read(sin, "sines")?,
            weight,
            eps: eps.unwrap_or(0.0),
        })
    }

    /// Cosines and sines of a place.
    #[inline(always)]
    fn angles(&self, place: usize, features: usize) -> [&'a [T]; 2] {
        let first = place * features % self.cos.len();
        [self.cos, self.sin].map(|table| &table[first..first + features])
    }
}

/// How many places a task takes.
fn task_size(places: usize) -> usize {
    PLACES.max(places.div_ceil(TASKS))
}

/// Which places a task takes.
fn task_of(places: usize, task: usize) -> Range<usize> {
    let size = task_size(places);
    task * size..places.min((task + 1) * size)
}

fn tasks(places: usize) -> usize {
    places.div_ceil(task_size(places))
}

/// `y` of `x`; `rest` are cosines, sines and the norm's weight if any.
pub(crate) fn forward<T: Number>(
    isa: Isa,
    x: &Tensor,
    rest: &[Tensor],
    eps: Option<f32>,
) -> Result<Tensor> {
    let mut y = Tensor::f_empty(x.size(), (x.kind(), x.device())).during(OP)?;
    let heads = HeadViews::<T>::new(x, "heads")?;
    let tables = RotationTables::<T>::new(rest, eps)?;
    let out = Shared::new(slices::write::<T>(&mut y, "rotated heads")?);
    let (places, width) = (heads.places(), heads.width());
    parallel::for_each(tasks(places), |task| {
        let part = task_of(places, task);
        // SAFETY: each task has places of its own.
        let out = unsafe { out.part(part.start * width, part.len() * width) };
        forward_on::<T>(isa, heads, tables, part, out);
    });
    Ok(y)
}

/// The gradients of `x` and of the norm's weight; `saved` are cosines, sines, and, where there is
/// a norm, its weight and `x`.
pub(crate) fn backward<T: Number>(
    isa: Isa,
    grad: &Tensor,
    saved: &[Tensor],
    eps: Option<f32>,
) -> Result<(Tensor, Option<Tensor>)> {
    let mut of_x = Tensor::f_empty(grad.size(), (grad.kind(), grad.device())).during(OP)?;
    let of_y = HeadViews::<T>::new(grad, "a gradient")?;
    let tables = RotationTables::<T>::new(saved, eps)?;
    let x = eps.map(|_| HeadViews::<T>::new(&saved[3], "heads")).transpose()?;
    if x.is_some_and(|x| x.sizes != of_y.sizes) {
        let expected = format!("{:?}", saved[3].size());
        return Err(Error::Shape { op: OP, tensor: "gradient", found: grad.size(), expected });
    }
    let out = Shared::new(slices::write::<T>(&mut of_x, "a gradient")?);
    let (places, width, features) = (of_y.places(), of_y.width(), of_y.sizes[3]);
    let sums: Vec<Vec<f32>> = parallel::map(tasks(places), |task| {
        let part = task_of(places, task);
        // SAFETY: each task has places of its own.
        let out = unsafe { out.part(part.start * width, part.len() * width) };
        let mut of_weight = vec![0.0; if eps.is_some() { features } else { 0 }];
        backward_on::<T>(isa, (of_y, x), tables, part, out, &mut of_weight);
        of_weight
    });
    let of_weight = eps.map(|_| -> Result<Tensor> {
        let mut of_weight = saved[2].f_empty_like().during(OP)?;
        let out = slices::write::<T>(&mut of_weight, "a gradient")?;
        for (feature, out) in out.iter_mut().enumerate() {
            *out = T::round(sums.iter().map(|sums| sums[feature]).sum());
        }
        Ok(of_weight)
    });
    Ok((of_x, of_weight.transpose()?))
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
            let of_x = Turn { x, angles, weight: tables.weight, scale: V::splat(scale) };
            let half = features / 2;
            for first in (0..whole(half)).step_by(LANES) {
                of_x.write::<false>(first..first + LANES, out);
            }
            if whole(half) < half {
                of_x.write::<true>(whole(half)..half, out);
            }
        }
    }
}

/// `1 / √(mean of x² + eps)`
#[inline(always)]
fn inverse_rms<V: Lanes, T: Number>(x: &[T], eps: f32) -> f32 {
    let mut squares = V::splat(0.0);
    let end = whole(x.len());
    for i in (0..end).step_by(LANES) {
        let value = V::read(&x[i..]);
        squares = value.mul_add(value, squares);
    }
    if end < x.len() {
        let value: V = read::<V, T, true>(&x[end..]);
        squares = value.mul_add(value, squares);
    }
    1.0 / (squares.sum() / x.len() as f32 + eps).sqrt()
}

/// The same features of the second half.
#[inline(always)]
fn pair(first: &Range<usize>, features: usize) -> Range<usize> {
    first.start + features / 2..first.end + features / 2
}

/// A part of a row.
#[inline(always)]
fn at<V: Lanes, T: Number, const TAIL: bool>(row: &[T], place: &Range<usize>) -> V {
    read::<V, T, TAIL>(&row[place.clone()])
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

vectorized! {
    /// [`backward_places`] on `isa`.
    fn backward_on[T: Number][T](
        heads: (HeadViews<'_, T>, Option<HeadViews<'_, T>>),
        tables: RotationTables<'_, T>,
        places: Range<usize>,
        out: &mut [T],
        of_weight: &mut [f32],
    ) = backward_places
}

/// The gradients of `y`, and `x` where there is a norm.
#[inline(always)]
fn backward_places<V: Lanes, T: Number>(
    (of_y, x): (HeadViews<'_, T>, Option<HeadViews<'_, T>>),
    tables: RotationTables<'_, T>,
    places: Range<usize>,
    out: &mut [T],
    of_weight: &mut [f32],
) {
    let [_, _, count, features] = of_y.sizes;
    let mut outs = out.chunks_exact_mut(features);
    for place in places {
        let angles = tables.angles(place, features);
        for (head, out) in (0..count).zip(&mut outs) {
            let back = Back { of_y: of_y.head(place, head), angles };
            match x.zip(tables.weight) {
                None => back.write::<V>(out),
                Some((x, weight)) => {
                    let normed = Normed { back, x: x.head(place, head), weight, eps: tables.eps };
                    normed.write::<V>(out, of_weight);
                }
            }
        }
    }
}

/// One head on its way backward.
struct Back<'a, T> {
    of_y: &'a [T],
    angles: [&'a [T]; 2],
}

impl<T: Number> Back<'_, T> {
    /// `dn` of some features of the first half, and of their pairs.
    #[inline(always)]
    fn of_normed<V: Lanes, const TAIL: bool>(&self, [first, second]: &[Range<usize>; 2]) -> [V; 2] {
        let [cos, sin] = self.angles;
        let (dy_i, dy_j) =
            (at::<V, T, TAIL>(self.of_y, first), at::<V, T, TAIL>(self.of_y, second));
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
        let found = self.of_normed::<V, TAIL>(&places);
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
    fn write<V: Lanes>(&self, out: &mut [T], of_weight: &mut [f32]) {
        let scale = V::splat(inverse_rms::<V, T>(self.x, self.eps));
        let half = out.len() / 2;
        let mut with_z = V::splat(0.0);
        for first in (0..whole(half)).step_by(LANES) {
            with_z = self.sum::<V, false>(first..first + LANES, scale, with_z, of_weight);
        }
        if whole(half) < half {
            with_z = self.sum::<V, true>(whole(half)..half, scale, with_z, of_weight);
        }
        let mean = V::splat(with_z.sum() / self.x.len() as f32);
        for first in (0..whole(half)).step_by(LANES) {
            self.write_some::<V, false>(first..first + LANES, [scale, mean], out);
        }
        if whole(half) < half {
            self.write_some::<V, true>(whole(half)..half, [scale, mean], out);
        }
    }

    /// `with_z` and `Σ g z` of some features and their pairs, whose `dn z` go to `of_weight`.
    #[inline(always)]
    fn sum<V: Lanes, const TAIL: bool>(
        &self,
        first: Range<usize>,
        scale: V,
        mut with_z: V,
        of_weight: &mut [f32],
    ) -> V {
        let places = [first.clone(), pair(&first, self.x.len())];
        let of_normed = self.back.of_normed::<V, TAIL>(&places);
        for (place, of_n) in places.iter().zip(of_normed) {
            let z = at::<V, T, TAIL>(self.x, place).mul(scale);
            with_z = of_n.mul(at::<V, T, TAIL>(self.weight, place)).mul_add(z, with_z);
            let sum = of_n.mul_add(z, at::<V, f32, TAIL>(of_weight, place));
            write::<V, f32, TAIL>(sum, &mut of_weight[place.clone()]);
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
        let of_normed = self.back.of_normed::<V, TAIL>(&places);
        for (place, of_n) in places.into_iter().zip(of_normed) {
            let off = at::<V, T, TAIL>(self.x, &place).mul(scale).mul(mean);
            let of_x = of_n.mul(at::<V, T, TAIL>(self.weight, &place)).sub(off).mul(scale);
            write::<V, T, TAIL>(of_x, &mut out[place]);
        }
    }
}
