//! On the CPU: parts of a tensor at a time, in vectors.

#![expect(unsafe_code, reason = "one tensor written by many, and calls by instruction set")]

use bert4rs_tensor_core::{Error, Result, Tensor, parallel};

use super::Activation;
use crate::cpu::isa::Isa;
use crate::cpu::lanes::{LANES, Lanes, exp, tanh, vectorized};
use crate::cpu::number::Number;
use crate::cpu::views::{self, SharedSlice};

/// Numbers that a task takes at a time.
pub(super) const CHUNK: usize = 1 << 14;

/// The part of `values` from `first` on that a task takes.
fn part<T>(values: &[T], task: usize) -> &[T] {
    let first = task * CHUNK;
    &values[first..values.len().min(first + CHUNK)]
}

pub(super) fn forward_all<T: Number>(
    activation: Activation,
    inputs: &[Tensor],
    y: &mut Tensor,
) -> Result<()> {
    let x: &[T] = views::read(&inputs[0], "an activation's input")?;
    let gated: Option<&[T]> = match inputs.get(1) {
        Some(gated) => Some(views::read(gated, "what is gated")?),
        None => None,
    };
    let out = SharedSlice::new(views::write::<T>(y, "an activation")?);
    let isa = Isa::fastest();
    parallel::for_each(x.len().div_ceil(CHUNK), |task| {
        let x = part(x, task);
        // SAFETY: each task has a part of its own.
        let y = unsafe { out.part(task * CHUNK, x.len()) };
        forward_on::<T>(isa, activation, x, gated.map(|gated| part(gated, task)), y);
    });
    Ok(())
}

pub(super) fn backward_all<T: Number>(
    activation: Activation,
    inputs: &[Tensor],
    grad: &Tensor,
    results: &mut [Tensor],
) -> Result<()> {
    let x: &[T] = views::read(&inputs[0], "an activation's input")?;
    let gated: Option<&[T]> = match inputs.get(1) {
        Some(gated) => Some(views::read(gated, "what is gated")?),
        None => None,
    };
    let grad: &[T] = views::read(grad, "a gradient")?;
    if grad.len() != x.len() {
        let message = "the gradient has another size".into();
        return Err(Error::Torch { op: "activation".into(), message });
    }
    let mut outs = results.iter_mut();
    let mut next = || match outs.next() {
        Some(out) => views::write::<T>(out, "a gradient").map(SharedSlice::new).map(Some),
        None => Ok(None),
    };
    let (Some(dx), du) = (next()?, next()?) else { return Ok(()) };
    let isa = Isa::fastest();
    parallel::for_each(x.len().div_ceil(CHUNK), |task| {
        let (x, grad) = (part(x, task), part(grad, task));
        let gated = gated.map(|gated| part(gated, task));
        // SAFETY: each task has a part of its own.
        let (dx, du) = unsafe {
            let du = du.as_ref().map(|du| du.part(task * CHUNK, x.len()));
            (dx.part(task * CHUNK, x.len()), du)
        };
        backward_on::<T>(isa, activation, (x, gated, grad), dx, du);
    });
    Ok(())
}

vectorized! {
    /// [`forward`] on `isa`.
    pub(super) fn forward_on[T: Number][T](
        activation: Activation,
        x: &[T],
        gated: Option<&[T]>,
        y: &mut [T],
    ) = forward
}

#[inline(always)]
fn forward<V: Lanes, T: Number>(activation: Activation, x: &[T], gated: Option<&[T]>, y: &mut [T]) {
    let each = |i: usize, x: &[T], y: &mut [T]| {
        let value = activation.value::<V>(V::read(x)).0;
        match gated {
            Some(gated) => V::read(&gated[i..]).mul(value).write(y),
            None => value.write(y),
        }
    };
    let whole = x.len() / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        each(i, &x[i..], &mut y[i..]);
    }
    for i in whole..x.len() {
        let value = activation.value::<V>(V::splat(x[i].widen())).0;
        let factor = gated.map_or(1.0, |gated| gated[i].widen());
        y[i] = T::round(first(value) * factor);
    }
}

vectorized! {
    /// [`backward`] on `isa`.
    fn backward_on[T: Number][T](
        activation: Activation,
        read: (&[T], Option<&[T]>, &[T]),
        dx: &mut [T],
        du: Option<&mut [T]>,
    ) = backward
}

#[inline(always)]
fn backward<V: Lanes, T: Number>(
    activation: Activation,
    (x, gated, grad): (&[T], Option<&[T]>, &[T]),
    dx: &mut [T],
    mut du: Option<&mut [T]>,
) {
    let whole = x.len() / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        let (value, slope) = activation.value::<V>(V::read(&x[i..]));
        let mut grad = V::read(&grad[i..]);
        if let (Some(gated), Some(du)) = (gated, du.as_deref_mut()) {
            grad.mul(value).write(&mut du[i..]);
            grad = grad.mul(V::read(&gated[i..]));
        }
        grad.mul(slope).write(&mut dx[i..]);
    }
    for i in whole..x.len() {
        let (value, slope) = activation.value::<V>(V::splat(x[i].widen()));
        let mut grad = grad[i].widen();
        if let (Some(gated), Some(du)) = (gated, du.as_deref_mut()) {
            du[i] = T::round(grad * first(value));
            grad *= gated[i].widen();
        }
        dx[i] = T::round(grad * first(slope));
    }
}

/// The first of the numbers.
#[inline(always)]
fn first<V: Lanes>(value: V) -> f32 {
    let mut all = [0.0; LANES];
    value.store(&mut all);
    all[0]
}

impl Activation {
    /// `f(x)` and `f'(x)`. What is not used costs nothing.
    #[inline(always)]
    fn value<V: Lanes>(self, x: V) -> (V, V) {
        let (zero, half, one) = (V::splat(0.0), V::splat(0.5), V::splat(1.0));
        match self {
            Self::Gelu => {
                let (share, density) = normal(x);
                (x.mul(share), x.mul_add(density, share))
            }
            Self::GeluTanh => {
                // √(2/π), and three times the published factor of the cube.
                let (root, cubic) = (V::splat(0.797_884_6), V::splat(0.044_715));
                let square = x.mul(x);
                let inner = root.mul(square.mul(cubic).mul_add(x, x));
                let tanh = tanh(inner);
                let share = tanh.mul_add(half, half);
                let inner_slope = root.mul(square.mul(V::splat(3.0 * 0.044_715)).add(one));
                let slope = half.mul(one.sub(tanh.mul(tanh))).mul(inner_slope);
                (x.mul(share), x.mul_add(slope, share))
            }
            // Where `x` is NaN, so are the value and what comes of the slope.
            Self::Relu => {
                let is_hidden = x.below(V::splat(f32::from_bits(1)));
                (zero.select(is_hidden, x), zero.select(is_hidden, one))
            }
            Self::ReluSquared => {
                let positive = zero.select(x.below(zero), x);
                (positive.mul(positive), positive.add(positive))
            }
            Self::Silu => {
                let share = one.div(one.add(exp(zero.sub(x))));
                (x.mul(share), share.mul(x.mul_add(one.sub(share), one)))
            }
        }
    }
}

/// The normal distribution's share below `x`, to 1e-7, and its density at `x`.
///
/// Source: Abramowitz and Stegun, 26.2.17.
#[inline(always)]
fn normal<V: Lanes>(x: V) -> (V, V) {
    let (zero, one) = (V::splat(0.0), V::splat(1.0));
    let size = x.max(zero.sub(x));
    let t = one.div(size.mul_add(V::splat(0.231_641_9), one));
    let mut tail = V::splat(1.330_274_5);
    for coefficient in [-1.821_255_9, 1.781_477_9, -0.356_563_8, 0.319_381_54] {
        tail = tail.mul_add(t, V::splat(coefficient));
    }
    // 1 / √(2 π)
    let density = exp(x.mul(x).mul(V::splat(-0.5))).mul(V::splat(0.398_942_3));
    let above = tail.mul(t).mul(density);
    let share = above.select(x.below(zero), one.sub(above));
    (x.select(x.is_nan(), share), density)
}
