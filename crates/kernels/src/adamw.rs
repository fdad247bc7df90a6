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

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Error, Kind, Result, Tensor};
use half::bf16;
use rayon::prelude::*;

use crate::isa::{Isa, multiversioned};
use crate::slices;

/// Values a task takes at a time: its five streams fit a core's second-level cache.
const CHUNK: usize = 1 << 14;

/// The numbers of one step that are equal for all values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scalars {
    /// Factor on the gradient, from clipping.
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
    pub keep: f32,
    /// `lr / (1 - beta1^t)`.
    pub step_size: f32,
    /// Decay only where update and weight agree in sign.
    pub cautious: bool,
}

/// Where the exact FP32 weight lies, and the working weight that follows it.
#[derive(Debug)]
pub enum Weight<'a> {
    /// The working weight is FP32 and exact.
    Single(&'a mut Tensor),
    /// BF16 working weight, rounded to nearest even from an FP32 master.
    Master {
        /// FP32.
        master: &'a mut Tensor,
        /// BF16.
        weight: &'a mut Tensor,
    },
    /// BF16 working weight, and the master's low 16 bits beside it as `i16`; see [`split`].
    Split {
        /// BF16.
        weight: &'a mut Tensor,
        /// 16-bit integers.
        low: &'a mut Tensor,
    },
}

/// One parameter's part in a step. All tensors have as many values as `grad`.
#[derive(Debug)]
pub struct Job<'a> {
    /// The numbers of this step.
    pub scalars: Scalars,
    /// FP32 or BF16.
    pub grad: &'a Tensor,
    /// First moment, FP32.
    pub moment1: &'a mut Tensor,
    /// Second moment, FP32.
    pub moment2: &'a mut Tensor,
    /// The weight, read and written.
    pub weight: Weight<'a>,
}

/// Splits FP32 bits into BF16 bits, rounded to nearest (ties away from zero), and the low 16
/// bits, from which [`join`] makes the same FP32 bits again.
///
/// Published variants (modded-nanogpt) truncate instead, which leaves the working weight
/// biased towards zero by half a unit in the last place; this costs the same memory.
#[inline(always)]
pub fn split(bits: u32) -> (u16, i16) {
    ((bits.wrapping_add(0x8000) >> 16) as u16, bits as u16 as i16)
}

/// The FP32 bits that [`split`] took apart.
#[inline(always)]
pub fn join(high: u16, low: i16) -> u32 {
    (u32::from(high) << 16).wrapping_add(i32::from(low) as u32)
}

/// [`split`] for a tensor of FP32: BF16 weights and the low bits as 16-bit integers.
///
/// # Errors
/// A tensor that is not dense, FP32 and on the CPU.
pub fn split_tensor(exact: &Tensor) -> Result<(Tensor, Tensor)> {
    let values: &[f32] = slices::read(exact, "a weight to split")?;
    let (high, low): (Vec<i16>, Vec<i16>) = values
        .iter()
        .map(|value| split(value.to_bits()))
        .map(|(high, low)| (high as i16, low))
        .unzip();
    let op = "split a weight";
    let shape = &exact.size()[..];
    let high = Tensor::f_from_slice(&high).during(op)?.f_view(shape).during(op)?;
    let weight = high.f_view_dtype(Kind::BFloat16).during(op)?;
    let low = Tensor::f_from_slice(&low).during(op)?.f_view(shape).during(op)?;
    Ok((weight, low))
}

/// [`join`] for what [`split_tensor`] returned: the same FP32 bits again.
///
/// # Errors
/// Tensors that are not dense, of those dtypes and one size, on the CPU.
pub fn join_tensor(weight: &Tensor, low: &Tensor) -> Result<Tensor> {
    let high: &[bf16] = slices::read(weight, "a weight")?;
    let low: &[i16] = slices::read(low, "low bits of a weight")?;
    same_count(high.len(), low.len(), "low bits")?;
    let values: Vec<f32> = high
        .iter()
        .zip(low)
        .map(|(high, &low)| f32::from_bits(join(high.to_bits(), low)))
        .collect();
    let op = "join a weight";
    Tensor::f_from_slice(&values).during(op)?.f_view(&weight.size()[..]).during(op)
}

/// BF16 bits of `value`, rounded to nearest even; a NaN stays one.
#[inline(always)]
pub(crate) fn round_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

/// A gradient's number type.
trait Grad: Copy + Send + Sync {
    fn widen(self) -> f32;
}

impl Grad for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Grad for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// Slices of a weight's storage.
trait Store: Sized + Send {
    /// The same, cut after `count` values: the part before and the part after.
    fn split_at(self, count: usize) -> (Self, Self);
    /// Panics unless there are `count` values; lets the compiler drop later checks.
    fn assert_len(&self, count: usize);
    fn load(&self, index: usize) -> f32;
    fn store(&mut self, index: usize, value: f32);
}

struct Single<'a>(&'a mut [f32]);

struct Master<'a> {
    master: &'a mut [f32],
    weight: &'a mut [bf16],
}

struct Split<'a> {
    weight: &'a mut [bf16],
    low: &'a mut [i16],
}

impl Store for Single<'_> {
    fn split_at(self, count: usize) -> (Self, Self) {
        let (head, tail) = self.0.split_at_mut(count);
        (Self(head), Self(tail))
    }
    #[inline(always)]
    fn assert_len(&self, count: usize) {
        assert_eq!(self.0.len(), count);
    }
    #[inline(always)]
    fn load(&self, index: usize) -> f32 {
        self.0[index]
    }
    #[inline(always)]
    fn store(&mut self, index: usize, value: f32) {
        self.0[index] = value;
    }
}

impl Store for Master<'_> {
    fn split_at(self, count: usize) -> (Self, Self) {
        let (master, master_tail) = self.master.split_at_mut(count);
        let (weight, weight_tail) = self.weight.split_at_mut(count);
        (Self { master, weight }, Self { master: master_tail, weight: weight_tail })
    }
    #[inline(always)]
    fn assert_len(&self, count: usize) {
        assert_eq!(self.master.len(), count);
        assert_eq!(self.weight.len(), count);
    }
    #[inline(always)]
    fn load(&self, index: usize) -> f32 {
        self.master[index]
    }
    #[inline(always)]
    fn store(&mut self, index: usize, value: f32) {
        self.master[index] = value;
        self.weight[index] = bf16::from_bits(round_to_bf16(value));
    }
}

impl Store for Split<'_> {
    fn split_at(self, count: usize) -> (Self, Self) {
        let (weight, weight_tail) = self.weight.split_at_mut(count);
        let (low, low_tail) = self.low.split_at_mut(count);
        (Self { weight, low }, Self { weight: weight_tail, low: low_tail })
    }
    #[inline(always)]
    fn assert_len(&self, count: usize) {
        assert_eq!(self.weight.len(), count);
        assert_eq!(self.low.len(), count);
    }
    #[inline(always)]
    fn load(&self, index: usize) -> f32 {
        f32::from_bits(join(self.weight[index].to_bits(), self.low[index]))
    }
    #[inline(always)]
    fn store(&mut self, index: usize, value: f32) {
        let (high, low) = split(value.to_bits());
        self.weight[index] = bf16::from_bits(high);
        self.low[index] = low;
    }
}

/// The update of the module's head, over slices of one length.
#[inline(always)]
fn update_body<G: Grad, W: Store>(
    scalars: &Scalars,
    grad: &[G],
    moment1: &mut [f32],
    moment2: &mut [f32],
    weight: &mut W,
) {
    if scalars.cautious {
        update_values::<G, W, true>(scalars, grad, moment1, moment2, weight);
    } else {
        update_values::<G, W, false>(scalars, grad, moment1, moment2, weight);
    }
}

#[inline(always)]
fn update_values<G: Grad, W: Store, const CAUTIOUS: bool>(
    scalars: &Scalars,
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
        let g = grad[i].widen() * s.grad_scale;
        let m = moment1[i] + s.one_minus_beta1 * (g - moment1[i]);
        let v = s.beta2 * moment2[i] + s.one_minus_beta2 * (g * g);
        moment1[i] = m;
        moment2[i] = v;
        let u = m / (v.sqrt() * s.inverse_sqrt_correction2 + s.eps);
        let p = weight.load(i);
        let keep = if CAUTIOUS && u * p <= 0.0 { 1.0 } else { s.keep };
        weight.store(i, p * keep - s.step_size * u);
    }
}

multiversioned! {
    /// [`update_body`] on `isa`.
    fn update_on[G: Grad, W: Store][G, W](
        scalars: &Scalars,
        grad: &[G],
        moment1: &mut [f32],
        moment2: &mut [f32],
        weight: &mut W,
    ) = update_body
}

/// A job, or a part of one, as slices.
struct Part<'a, G, W> {
    scalars: Scalars,
    grad: &'a [G],
    moment1: &'a mut [f32],
    moment2: &'a mut [f32],
    weight: W,
}

/// A [`Part`] of whatever types.
trait Runnable: Send {
    fn run(self: Box<Self>, isa: Isa);
}

impl<G: Grad, W: Store> Runnable for Part<'_, G, W> {
    fn run(mut self: Box<Self>, isa: Isa) {
        update_on(isa, &self.scalars, self.grad, self.moment1, self.moment2, &mut self.weight);
    }
}

impl<'a, G: Grad + 'a, W: Store + 'a> Part<'a, G, W> {
    /// Cuts the part into pieces of [`CHUNK`] values.
    fn cut(mut self, pieces: &mut Vec<Box<dyn Runnable + 'a>>) {
        while self.grad.len() > CHUNK {
            let (grad, grad_tail) = self.grad.split_at(CHUNK);
            let (moment1, moment1_tail) = self.moment1.split_at_mut(CHUNK);
            let (moment2, moment2_tail) = self.moment2.split_at_mut(CHUNK);
            let (weight, weight_tail) = self.weight.split_at(CHUNK);
            let scalars = self.scalars;
            pieces.push(Box::new(Self { scalars, grad, moment1, moment2, weight }));
            self = Self {
                scalars,
                grad: grad_tail,
                moment1: moment1_tail,
                moment2: moment2_tail,
                weight: weight_tail,
            };
        }
        pieces.push(Box::new(self));
    }
}

fn cut_job<'a>(job: Job<'a>, pieces: &mut Vec<Box<dyn Runnable + 'a>>) -> Result<()> {
    match job.grad.kind() {
        Kind::BFloat16 => cut_with::<bf16>(job, pieces),
        _ => cut_with::<f32>(job, pieces),
    }
}

fn cut_with<'a, G: Grad + slices::Element>(
    job: Job<'a>,
    pieces: &mut Vec<Box<dyn Runnable + 'a>>,
) -> Result<()> {
    let grad: &[G] = slices::read(job.grad, "a gradient")?;
    let moment1 = slices::write(job.moment1, "a first moment")?;
    let moment2 = slices::write(job.moment2, "a second moment")?;
    let count = grad.len();
    same_count(count, moment1.len(), "first moment")?;
    same_count(count, moment2.len(), "second moment")?;
    let scalars = job.scalars;
    match job.weight {
        Weight::Single(weight) => {
            let weight = slices::write(weight, "a weight")?;
            same_count(count, weight.len(), "weight")?;
            Part { scalars, grad, moment1, moment2, weight: Single(weight) }.cut(pieces);
        }
        Weight::Master { master, weight } => {
            let master = slices::write(master, "a master weight")?;
            let weight = slices::write(weight, "a weight")?;
            same_count(count, master.len(), "master weight")?;
            same_count(count, weight.len(), "weight")?;
            Part { scalars, grad, moment1, moment2, weight: Master { master, weight } }.cut(pieces);
        }
        Weight::Split { weight, low } => {
            let weight = slices::write(weight, "a weight")?;
            let low = slices::write(low, "low bits of a weight")?;
            same_count(count, weight.len(), "weight")?;
            same_count(count, low.len(), "low bits")?;
            Part { scalars, grad, moment1, moment2, weight: Split { weight, low } }.cut(pieces);
        }
    }
    Ok(())
}

fn same_count(grad: usize, found: usize, tensor: &'static str) -> Result<()> {
    if found == grad {
        return Ok(());
    }
    Err(Error::Shape {
        op: "AdamW",
        tensor,
        found: vec![found as i64],
        expected: format!("{grad} values, as many as the gradient"),
    })
}

/// Checks that no two tensors of `jobs` that are written, or read beside one written, overlap.
fn check_overlap(jobs: &[Job<'_>]) -> Result<()> {
    let mut ranges = Vec::with_capacity(5 * jobs.len());
    let mut add = |tensor: &Tensor| {
        let range = slices::range(tensor);
        ranges.push((range.start, range.end));
    };
    for job in jobs {
        add(job.grad);
        add(job.moment1);
        add(job.moment2);
        match &job.weight {
            Weight::Single(weight) => add(weight),
            Weight::Master { master: other, weight } | Weight::Split { weight, low: other } => {
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

/// One AdamW step for all `jobs`, in parallel over values. CPU only.
///
/// The same bits for any thread count and instruction set.
///
/// # Errors
/// A tensor of another dtype, device, layout or count of values than [`Job`] says, or two that
/// share memory. Nothing has been changed then.
pub fn step(jobs: Vec<Job<'_>>) -> Result<()> {
    step_on(Isa::fastest(), jobs)
}

/// [`step`] on an instruction set of [`Isa::available`], for tests.
pub fn step_on(isa: Isa, jobs: Vec<Job<'_>>) -> Result<()> {
    check_overlap(&jobs)?;
    let mut pieces = Vec::new();
    for job in jobs {
        cut_job(job, &mut pieces)?;
    }
    pieces.into_par_iter().for_each(|piece| piece.run(isa));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bert4rs_tensor_core::Device;

    const SCALARS: Scalars = Scalars {
        grad_scale: 0.5,
        one_minus_beta1: 0.1,
        beta2: 0.98,
        one_minus_beta2: 0.02,
        inverse_sqrt_correction2: 3.0,
        eps: 1e-6,
        keep: 0.999,
        step_size: 1e-2,
        cautious: false,
    };

    fn random(kind: Kind) -> Tensor {
        Tensor::randn([3, 20_001], (Kind::Float, Device::Cpu)).to_kind(kind)
    }

    /// The formula at the module's head in FP64, by libtorch.
    fn reference(s: &Scalars, g: &Tensor, m: &Tensor, v: &Tensor, p: &Tensor) -> [Tensor; 3] {
        let [g, m, v, p] = [g, m, v, p].map(|tensor| tensor.to_kind(Kind::Double));
        let number = f64::from;
        let g = g * number(s.grad_scale);
        let m = &m + number(s.one_minus_beta1) * (&g - &m);
        let v = number(s.beta2) * v + number(s.one_minus_beta2) * &g * &g;
        let u = &m / (v.sqrt() * number(s.inverse_sqrt_correction2) + number(s.eps));
        let agree = if s.cautious { (&u * &p).gt(0.0) } else { p.ones_like().gt(0.0) };
        let keep = (number(s.keep) - 1.0) * agree.to_kind(Kind::Double) + 1.0;
        let p = p * keep - number(s.step_size) * u;
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
            let scalars = Scalars { cautious, ..SCALARS };
            let grad = random(grad_kind);
            let (m, v, p) = (random(Kind::Float), random(Kind::Float).abs(), random(Kind::Float));
            let expected = reference(&scalars, &grad, &m, &v, &p);
            let mut first: Option<Vec<Tensor>> = None;
            for isa in Isa::available() {
                let mut found = vec![m.copy(), v.copy(), p.copy()];
                let [moment1, moment2, weight] = &mut found[..] else { unreachable!() };
                let weight = Weight::Single(weight);
                step_on(isa, vec![Job { scalars, grad: &grad, moment1, moment2, weight }]).unwrap();
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
            let job =
                Job { scalars: SCALARS, grad: &grad, moment1: &mut m, moment2: &mut v, weight };
            step(vec![job]).unwrap();
        };
        let mut single = p.copy();
        run(Weight::Single(&mut single));

        let (mut master, mut weight) = (p.copy(), p.to_kind(Kind::BFloat16));
        run(Weight::Master { master: &mut master, weight: &mut weight });
        assert!(master.equal(&single));
        assert!(weight.equal(&single.to_kind(Kind::BFloat16)));

        let (mut weight, mut low) = split_tensor(&p).unwrap();
        assert!(join_tensor(&weight, &low).unwrap().equal(&p));
        run(Weight::Split { weight: &mut weight, low: &mut low });
        assert!(join_tensor(&weight, &low).unwrap().equal(&single));
        let ulp = (&weight - single.to_kind(Kind::BFloat16)).abs().max();
        assert!(f64::try_from(ulp).unwrap() <= 0.0625, "only ties may round the other way");
    }

    #[test]
    fn rounding_is_to_nearest_even_and_splitting_is_exact() {
        let mut bits = 1u32;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            for bits in [bits, bits & 0xffff_8000, bits | 0x7f80_0000] {
                let value = f32::from_bits(bits);
                let rounded = bf16::from_bits(round_to_bf16(value));
                let expected = bf16::from_f32(value);
                assert!(rounded == expected || (rounded.is_nan() && expected.is_nan()), "{value}");
                let (high, low) = split(bits);
                assert_eq!(join(high, low), bits);
            }
        }
    }

    #[test]
    fn refuses_what_it_can_not_do() {
        let grad = random(Kind::Float);
        let (mut m, mut v, mut p) =
            (random(Kind::Float), random(Kind::Float), random(Kind::Float).transpose(0, 1));
        fn refusal(grad: &Tensor, m: &mut Tensor, v: &mut Tensor, p: &mut Tensor) -> String {
            let (scalars, weight) = (SCALARS, Weight::Single(p));
            step(vec![Job { scalars, grad, moment1: m, moment2: v, weight }])
                .unwrap_err()
                .to_string()
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
