//! Activation functions and gates, forward and backward in one pass each.
//!
//! With activation `f` of `x`, alone or as the gate of `u`:
//!
//! ```text
//! y = f(x)        y = f(x) · u
//! dx = dy f'(x)   dx = dy u f'(x)   du = dy f(x)
//! ```
//!
//! libtorch's `tanh` form of GELU is nearly ten times slower than its `erf` form on the CPU, and
//! a gate takes it two passes forward and four backward.

#![expect(unsafe_code, reason = "one tensor written by many, and calls by instruction set")]

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor, parallel};
use half::bf16;

use crate::cuda;
use crate::isa::Isa;
use crate::lanes::{LANES, Lanes, exp, tanh, vectorized};
use crate::number::Number;
use crate::slices::{self, Shared};

/// Numbers that a task takes at a time.
const CHUNK: usize = 1 << 14;

/// The function `f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`. Source: arXiv 1606.08415.
    Gelu,
    /// The same with `Φ(x) = (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    GeluTanh,
    /// `x σ(x)`. Source: arXiv 1702.03118.
    Silu,
}

/// Whether [`activate`] takes `x`: FP32 or BF16 on the CPU, or on a GPU where our kernels are
/// preferred.
pub fn supports(x: &Tensor) -> bool {
    let device = x.device();
    (device == Device::Cpu || cuda::is_preferred(device))
        && matches!(x.kind(), Kind::BFloat16 | Kind::Float)
}

/// Whether it is faster than libtorch's operations. These take one good pass each way for GELU
/// in BF16 and for SiLU in FP32.
pub fn is_fast(activation: Activation, kind: Kind, gated: bool) -> bool {
    let single = match activation {
        Activation::Gelu => kind == Kind::Float,
        Activation::GeluTanh => true,
        Activation::Silu => kind == Kind::BFloat16,
    };
    gated || single
}

/// `f(x)`, or `f(x) · gated`; both of one shape and dtype, which stay.
///
/// # Errors
/// A tensor that it does not [support](supports), shapes or dtypes that differ.
pub fn activate(activation: Activation, x: &Tensor, gated: Option<&Tensor>) -> Result<Tensor> {
    if let Some(gated) = gated.filter(|u| u.size() != x.size() || u.kind() != x.kind()) {
        return Err(Error::Shape {
            op: "activation",
            tensor: "what is gated",
            found: gated.size(),
            expected: format!("{:?} of {:?}", x.size(), x.kind()),
        });
    }
    let mut inputs = vec![x];
    inputs.extend(gated);
    autograd::apply_one(Activate { activation }, &inputs)
}

struct Activate {
    activation: Activation,
}

impl Function for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.contiguous()).collect();
        if inputs[0].device() != Device::Cpu {
            inputs.iter().for_each(|input| ctx.save(input));
            return Ok(vec![cuda::activation::forward(
                self.activation,
                &inputs[0],
                inputs.get(1),
            )?]);
        }
        let mut y = inputs[0].f_empty_like().during(self.name())?;
        match y.kind() {
            Kind::BFloat16 => forward_all::<bf16>(self.activation, &inputs, &mut y)?,
            _ => forward_all::<f32>(self.activation, &inputs, &mut y)?,
        }
        inputs.iter().for_each(|input| ctx.save(input));
        Ok(vec![y])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let inputs = ctx.saved();
        let Some(grad) = &grads[0] else { return Ok(inputs.iter().map(|_| None).collect()) };
        let grad = grad.contiguous();
        if grad.device() != Device::Cpu {
            let (dx, du) = cuda::activation::backward(self.activation, inputs, &grad)?;
            return Ok([Some(dx), du].into_iter().take(inputs.len()).collect());
        }
        let empty = |input: &Tensor| input.f_empty_like().during(self.name());
        let mut results: Vec<Tensor> = inputs.iter().map(empty).collect::<Result<_>>()?;
        match grad.kind() {
            Kind::BFloat16 => backward_all::<bf16>(self.activation, inputs, &grad, &mut results)?,
            _ => backward_all::<f32>(self.activation, inputs, &grad, &mut results)?,
        }
        Ok(results.into_iter().map(Some).collect())
    }
}

/// The part of `values` from `first` on that a task takes.
fn part<T>(values: &[T], task: usize) -> &[T] {
    let first = task * CHUNK;
    &values[first..values.len().min(first + CHUNK)]
}

fn forward_all<T: Number>(activation: Activation, inputs: &[Tensor], y: &mut Tensor) -> Result<()> {
    let x: &[T] = slices::read(&inputs[0], "an activation's input")?;
    let gated: Option<&[T]> = match inputs.get(1) {
        Some(gated) => Some(slices::read(gated, "what is gated")?),
        None => None,
    };
    let out = Shared::new(slices::write::<T>(y, "an activation")?);
    let isa = Isa::fastest();
    parallel::for_each(x.len().div_ceil(CHUNK), |task| {
        let x = part(x, task);
        // SAFETY: each task has a part of its own.
        let y = unsafe { out.part(task * CHUNK, x.len()) };
        forward_on::<T>(isa, activation, x, gated.map(|gated| part(gated, task)), y);
    });
    Ok(())
}

fn backward_all<T: Number>(
    activation: Activation,
    inputs: &[Tensor],
    grad: &Tensor,
    results: &mut [Tensor],
) -> Result<()> {
    let x: &[T] = slices::read(&inputs[0], "an activation's input")?;
    let gated: Option<&[T]> = match inputs.get(1) {
        Some(gated) => Some(slices::read(gated, "what is gated")?),
        None => None,
    };
    let grad: &[T] = slices::read(grad, "a gradient")?;
    if grad.len() != x.len() {
        let message = "the gradient has another size".into();
        return Err(Error::Torch { op: "activation".into(), message });
    }
    let mut outs = results.iter_mut();
    let mut next = || match outs.next() {
        Some(out) => slices::write::<T>(out, "a gradient").map(Shared::new).map(Some),
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
    fn forward_on[T: Number][T](activation: Activation, x: &[T], gated: Option<&[T]>, y: &mut [T]) = forward
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
        let (half, one) = (V::splat(0.5), V::splat(1.0));
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
            Self::Silu => {
                let share = one.div(one.add(exp(V::splat(0.0).sub(x))));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(activation: Activation, x: &Tensor) -> Tensor {
        match activation {
            Activation::Gelu => x.gelu("none"),
            Activation::GeluTanh => x.gelu("tanh"),
            Activation::Silu => x.silu(),
        }
    }

    fn check_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
        let error = (found.to_kind(Kind::Double) - expected).abs();
        let allowed = expected.abs() * tolerance + tolerance;
        let over = (error - allowed).max().double_value(&[]);
        assert!(over <= 0.0, "{what}: {over:.2e} too far");
    }

    #[test]
    fn equals_the_formulas_in_fp64_at_every_length() {
        bert4rs_tensor_core::random::seed(5);
        let activations = [Activation::Gelu, Activation::GeluTanh, Activation::Silu];
        for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 6e-3)] {
            for count in [0, 1, 15, 16, 17, 1000, 2 * CHUNK as i64 + 5] {
                let make = |scale: f64| {
                    let x = Tensor::randn([count], (Kind::Float, Device::Cpu)) * scale;
                    x.to_kind(kind).set_requires_grad(true)
                };
                let inputs = [make(3.0), make(1.0)];
                let double = |x: &Tensor| x.detach().to_kind(Kind::Double).set_requires_grad(true);
                let doubles = inputs.each_ref().map(double);
                for (activation, gate) in
                    activations.into_iter().flat_map(|c| [(c, false), (c, true)])
                {
                    let name = format!("{activation:?} gate {gate} of {count} {kind:?}");
                    let used = if gate { 2 } else { 1 };
                    let found = activate(activation, &inputs[0], inputs[1..used].first()).unwrap();
                    let mut expected = plain(activation, &doubles[0]);
                    if gate {
                        expected *= &doubles[1];
                    }
                    if count == 0 {
                        continue;
                    }
                    check_close(&name, &found, &expected, tolerance);
                    let sum = |x: &Tensor| (x * 1.5).sum(Kind::Double);
                    let found = Tensor::run_backward(&[sum(&found)], &inputs[..used], false, false);
                    let expected =
                        Tensor::run_backward(&[sum(&expected)], &doubles[..used], false, false);
                    for (found, expected) in found.iter().zip(&expected) {
                        check_close(&format!("gradient, {name}"), found, expected, tolerance);
                    }
                }
            }
        }
    }

    #[test]
    fn every_isa_agrees_and_knows_the_ends() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let x: Vec<f32> = vec![-100.0, -20.0, -5.0, 0.0, 5.0, 20.0, 100.0, inf, nan, 1e30, 0.5];
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
            for isa in Isa::available() {
                let mut y = vec![7f32; x.len()];
                forward_on::<f32>(isa, activation, &x, None, &mut y);
                assert!(y[0].abs() < 1e-6 && y[1].abs() < 1e-6, "{activation:?} {isa:?}: {y:?}");
                assert!(
                    (y[6] - 100.0).abs() < 1e-4 && y[7] == inf,
                    "{activation:?} {isa:?}: {y:?}"
                );
                assert!(y[8].is_nan(), "{activation:?} {isa:?}: {y:?}");
            }
        }
    }

    #[test]
    fn refuses_a_gate_of_another_shape() {
        let x = |count: i64| Tensor::zeros([count], (Kind::Float, Device::Cpu));
        assert!(activate(Activation::Silu, &x(3), Some(&x(4))).is_err());
    }
}
