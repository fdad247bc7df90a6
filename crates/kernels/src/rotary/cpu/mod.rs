//! On the CPU: heads of some places in time, one after the other, each in a few vectors.

mod backward;
mod forward;

use std::ops::Range;

use bert4rs_tensor_core::{Result, Tensor};

use crate::cpu::lanes::{LANES, Lanes};
use crate::cpu::number::Number;
use crate::cpu::tail::{read, whole};
use crate::cpu::views;

pub(super) use backward::backward;
pub(super) use forward::forward;

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
        let (values, strides) = views::read_strided::<T, 4>(x, what)?;
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
        let weight = eps.map(|_| views::read(&tensors[2], "a norm's weight")).transpose()?;
        let (cos, sin) = (&tensors[0], &tensors[1]);
        Ok(Self {
            cos: views::read(cos, "cosines")?,
            sin: views::read(sin, "sines")?,
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
