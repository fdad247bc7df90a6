//! AdamW in one pass over memory.
//!
//! With gradient `g`, moments `m` and `v`, exact weight `p`, all FP32 in registers:
//!
//! ```text
//! g = g * grad_scale
//! m = m + (1 - beta1) * (g - m)
//! v = beta2 * v + (1 - beta2) * g²
//! u = m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//! p = p * (1 - lr * decay) - lr / (1 - beta1^t) * u
//! ```
//!
//! as in PyTorch's `fused_adam_utils.cuh`. Cautious decay (modded-nanogpt) multiplies `p` only
//! where `u * p > 0`. The working weight, `p` rounded to BF16, is written in the same pass.

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor, parallel};
use half::bf16;

use crate::isa::{Isa, multiversioned};
use crate::slices;
use crate::weight::{Grad, MasterSlices, ResidualSlices, SingleSlices, WeightSlices, same_count};

pub use crate::weight::Weight;

/// Values a task takes at a time: its five streams fit a core's second-level cache.
const CHUNK: usize = 1 << 14;

/// The numbers of one step that are equal for all values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct AdamwKernelScalars {
    /// Factor on the gradient, from clipping. With 0 a gradient counts as 0 even where it is not
    /// finite.
    pub grad_scale: f32,
    /// `1 - beta1`.
    pub one_minus_beta1: f32,
    /// `beta2`.
    pub beta2: f32,
    /// `1 - beta2`.
    pub one_minus_beta2: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub inverse_sqrt_correction2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// `1 - lr * decay`.
    pub decay_factor: f32,
    /// `lr / (1 - beta1^t)`.
    pub step_size: f32,
}

impl AdamwKernelScalars {
    /// How many they are.
    pub const COUNT: usize = 8;

    /// As a tensor holds them: FP32 `[8]`, in the order of the fields.
    pub fn to_array(self) -> [f32; Self::COUNT] {
        bytemuck::cast(self)
    }

    /// What a tensor on the CPU holds.
    fn read(numbers: &Tensor) -> Result<Self> {
        let found = slices::read::<f32>(numbers, "the numbers of a step")?;
        let found: [f32; Self::COUNT] = found.try_into().map_err(|_| Error::Shape {
            op: "AdamW",
            tensor: "numbers",
            found: numbers.size(),
            expected: format!("[{}]", Self::COUNT),
        })?;
        Ok(bytemuck::cast(found))
    }
}

/// One parameter's part in a step. All tensors but `numbers` have as many values as `grad`.
#[derive(Debug)]
pub struct ParamUpdate<'a> {
    /// The [`AdamwKernelScalars`] of this step, read when the step runs: FP32 `[8]`, on the device of all.
    pub numbers: &'a Tensor,
    /// Decay only where update and weight agree in sign.
    pub cautious: bool,
    /// FP32 or BF16.
    pub grad: &'a Tensor,
    /// First moment, FP32.
    pub moment1: &'a mut Tensor,
    /// Second moment, FP32.
    pub moment2: &'a mut Tensor,
    /// The weight, read and written.
    pub weight: Weight<'a>,
}

/// The update of the module's head, over slices of one length.
#[inline(always)]
fn update_body<G: Grad, W: WeightSlices>(
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
fn update_values<G: Grad, W: WeightSlices, const CAUTIOUS: bool>(
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
    fn update_on[G: Grad, W: WeightSlices][G, W](
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

impl<G: Grad, W: WeightSlices> Runnable for Part<'_, G, W> {
    fn run(mut self: Box<Self>, isa: Isa) {
        let Self { scalars, cautious, grad, moment1, moment2, weight } = &mut *self;
        update_on(isa, scalars, *cautious, grad, moment1, moment2, weight);
    }
}

type Streams<'a, G> = (AdamwKernelScalars, bool, &'a [G], &'a mut [f32], &'a mut [f32]);

impl<'a, G: Grad + 'a, W: WeightSlices + 'a> Part<'a, G, W> {
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

fn cut_with<'a, G: Grad + slices::Element>(
    update: ParamUpdate<'a>,
    pieces: &mut Vec<Box<dyn Runnable + 'a>>,
) -> Result<()> {
    let grad: &[G] = slices::read(update.grad, "a gradient")?;
    let moment1 = slices::write(update.moment1, "a first moment")?;
    let moment2 = slices::write(update.moment2, "a second moment")?;
    let count = grad.len();
    same_count("AdamW", count, moment1.len(), "first moment")?;
    same_count("AdamW", count, moment2.len(), "second moment")?;
    let (scalars, cautious) = (AdamwKernelScalars::read(update.numbers)?, update.cautious);
    let part = (scalars, cautious, grad, moment1, moment2);
    match update.weight {
        Weight::Single(weight) => {
            let weight = slices::write(weight, "a weight")?;
            same_count("AdamW", count, weight.len(), "weight")?;
            Part::new(part, SingleSlices(weight)).cut(pieces);
        }
        Weight::Master { master, weight } => {
            let master = slices::write(master, "a master weight")?;
            let weight = slices::write(weight, "a weight")?;
            same_count("AdamW", count, master.len(), "master weight")?;
            same_count("AdamW", count, weight.len(), "weight")?;
            Part::new(part, MasterSlices { master, weight }).cut(pieces);
        }
        Weight::Bf16Residual { weight, residual: low } => {
            let weight = slices::write(weight, "a weight")?;
            let low = slices::write(low, "low bits of a weight")?;
            same_count("AdamW", count, weight.len(), "weight")?;
            same_count("AdamW", count, low.len(), "low bits")?;
            Part::new(part, ResidualSlices { weight, low }).cut(pieces);
        }
    }
    Ok(())
}

/// Checks that no two tensors of `updates` that are written, or read beside one written, overlap.
fn check_overlap(updates: &[ParamUpdate<'_>]) -> Result<()> {
    let mut ranges = Vec::with_capacity(5 * updates.len());
    let mut add = |tensor: &Tensor| {
        let range = slices::range(tensor);
        ranges.push((range.start, range.end));
    };
    for update in updates {
        add(update.grad);
        add(update.moment1);
        add(update.moment2);
        match &update.weight {
            Weight::Single(weight) => add(weight),
            Weight::Master { master: other, weight }
            | Weight::Bf16Residual { weight, residual: other } => {
                add(other);
                add(weight);
            }
        }
    }
    ranges.retain(|(start, end)| start < end);
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(Error::Unsupported {
            what: "AdamW in one pass".into(),
            reason: "two of its tensors share memory".into(),
        });
    }
    Ok(())
}

/// One AdamW step for all `updates`, in parallel over values; all are on one device.
///
/// The same bits for any device, thread count and instruction set.
///
/// # Errors
/// A tensor of another dtype, device, layout or count of values than [`ParamUpdate`] says, or two that
/// share memory. Nothing has been changed then.
pub fn step(updates: Vec<ParamUpdate<'_>>) -> Result<()> {
    step_on(Isa::fastest(), updates)
}

/// [`step`] on an instruction set of [`Isa::available`], for tests.
pub fn step_on(isa: Isa, updates: Vec<ParamUpdate<'_>>) -> Result<()> {
    check_overlap(&updates)?;
    if let Some(device @ Device::Cuda(_)) = updates.first().map(|update| update.grad.device()) {
        return crate::cuda::adamw::step(&updates, device);
    }
    let mut pieces = Vec::new();
    for update in updates {
        cut_update(update, &mut pieces)?;
    }
    parallel::for_each_of(pieces, |piece| piece.run(isa));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::{join_tensor, split_tensor};

    const SCALARS: AdamwKernelScalars = AdamwKernelScalars {
        grad_scale: 0.5,
        one_minus_beta1: 0.1,
        beta2: 0.98,
        one_minus_beta2: 0.02,
        inverse_sqrt_correction2: 3.0,
        eps: 1e-6,
        decay_factor: 0.999,
        step_size: 1e-2,
    };

    fn numbers() -> Tensor {
        Tensor::from_slice(&SCALARS.to_array())
    }

    #[test]
    fn numbers_that_change_nothing_change_nothing() {
        let still = AdamwKernelScalars {
            grad_scale: 0.0,
            one_minus_beta1: 0.0,
            beta2: 1.0,
            one_minus_beta2: 0.0,
            decay_factor: 1.0,
            step_size: 0.0,
            ..SCALARS
        };
        let numbers = &Tensor::from_slice(&still.to_array());
        let grad = &(random(Kind::Float) * f64::NAN);
        let before = [random(Kind::Float), random(Kind::Float).abs(), random(Kind::Float)];
        let mut after = before.each_ref().map(Tensor::copy);
        let [moment1, moment2, weight] = &mut after;
        let weight = Weight::Single(weight);
        step(vec![ParamUpdate { numbers, cautious: true, grad, moment1, moment2, weight }])
            .unwrap();
        assert!(before.iter().zip(&after).all(|(before, after)| before.equal(after)));
    }

    fn random(kind: Kind) -> Tensor {
        Tensor::randn([3, 20_001], (Kind::Float, Device::Cpu)).to_kind(kind)
    }

    /// The formula at the module's head in FP64, by libtorch.
    fn reference(cautious: bool, [g, m, v, p]: [&Tensor; 4]) -> [Tensor; 3] {
        let s = &SCALARS;
        let [g, m, v, p] = [g, m, v, p].map(|tensor| tensor.to_kind(Kind::Double));
        let number = f64::from;
        let g = g * number(s.grad_scale);
        let m = &m + number(s.one_minus_beta1) * (&g - &m);
        let v = number(s.beta2) * v + number(s.one_minus_beta2) * &g * &g;
        let u = &m / (v.sqrt() * number(s.inverse_sqrt_correction2) + number(s.eps));
        let agree = if cautious { (&u * &p).gt(0.0) } else { p.ones_like().gt(0.0) };
        let decay_factor = (number(s.decay_factor) - 1.0) * agree.to_kind(Kind::Double) + 1.0;
        let p = p * decay_factor - number(s.step_size) * u;
        [m, v, p]
    }

    fn assert_close(found: &Tensor, expected: &Tensor) {
        let error = (found.to_kind(Kind::Double) - expected).abs() / (expected.abs() + 0.1);
        let worst = f64::try_from(error.max()).unwrap();
        assert!(worst < 2e-6, "relative error {worst}");
    }

    #[test]
    fn equals_the_formula_in_fp64_and_all_isas_agree() {
        for (grad_kind, cautious) in [
            (Kind::Float, false),
            (Kind::Float, true),
            (Kind::BFloat16, false),
            (Kind::BFloat16, true),
        ] {
            let grad = random(grad_kind);
            let (m, v, p) = (random(Kind::Float), random(Kind::Float).abs(), random(Kind::Float));
            let expected = reference(cautious, [&grad, &m, &v, &p]);
            let mut first: Option<Vec<Tensor>> = None;
            for isa in Isa::available() {
                let mut found = vec![m.copy(), v.copy(), p.copy()];
                let [moment1, moment2, weight] = &mut found[..] else { unreachable!() };
                let (weight, numbers) = (Weight::Single(weight), &numbers());
                let update =
                    ParamUpdate { numbers, cautious, grad: &grad, moment1, moment2, weight };
                step_on(isa, vec![update]).unwrap();
                for (found, expected) in found.iter().zip(&expected) {
                    assert_close(found, expected);
                }
                let first = first.get_or_insert_with(|| found.iter().map(Tensor::copy).collect());
                assert!(first.iter().zip(&found).all(|(a, b)| a.equal(b)), "{isa:?} differs");
            }
        }
    }

    #[test]
    fn masters_and_low_bits_hold_what_a_single_fp32_weight_holds() {
        let grad = random(Kind::BFloat16);
        let (m, v, p) = (random(Kind::Float), random(Kind::Float).abs(), random(Kind::Float));
        let run = |weight: Weight<'_>| {
            let (mut m, mut v) = (m.copy(), v.copy());
            let (numbers, moment1, moment2) = (&numbers(), &mut m, &mut v);
            let update =
                ParamUpdate { numbers, cautious: false, grad: &grad, moment1, moment2, weight };
            step(vec![update]).unwrap();
        };
        let mut single = p.copy();
        run(Weight::Single(&mut single));

        let (mut master, mut weight) = (p.copy(), p.to_kind(Kind::BFloat16));
        run(Weight::Master { master: &mut master, weight: &mut weight });
        assert!(master.equal(&single));
        assert!(weight.equal(&single.to_kind(Kind::BFloat16)));

        let (mut weight, mut low) = split_tensor(&p).unwrap();
        assert!(join_tensor(&weight, &low).unwrap().equal(&p));
        run(Weight::Bf16Residual { weight: &mut weight, residual: &mut low });
        assert!(join_tensor(&weight, &low).unwrap().equal(&single));
        let ulp = (&weight - single.to_kind(Kind::BFloat16)).abs().max();
        assert!(f64::try_from(ulp).unwrap() <= 0.0625, "only ties may round the other way");
    }

    #[test]
    fn refuses_what_it_can_not_do() {
        let grad = random(Kind::Float);
        let (mut m, mut v, mut p) =
            (random(Kind::Float), random(Kind::Float), random(Kind::Float).transpose(0, 1));
        fn refusal(grad: &Tensor, m: &mut Tensor, v: &mut Tensor, p: &mut Tensor) -> String {
            let (numbers, weight) = (&numbers(), Weight::Single(p));
            let update =
                ParamUpdate { numbers, cautious: false, grad, moment1: m, moment2: v, weight };
            step(vec![update]).unwrap_err().to_string()
        }
        let error = refusal(&grad, &mut m, &mut v, &mut p);
        assert!(error.contains("not contiguous"), "{error}");
        let mut alias = m.shallow_clone();
        let error = refusal(&grad, &mut m, &mut v, &mut alias);
        assert!(error.contains("share memory"), "{error}");
        let mut short = Tensor::zeros([5], (Kind::Float, Device::Cpu));
        let error = refusal(&grad, &mut m, &mut v, &mut short);
        assert!(error.contains("as many as the gradient"), "{error}");
    }
}
