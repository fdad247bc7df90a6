//! Against the formula in FP64, and the CUDA kernel against the CPU.

use bert4rs_tensor_core::Kind;

use super::*;
use crate::testing::{self, weight_forms, weight_of};
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
    step(vec![ParamUpdate { numbers, cautious: true, grad, moment1, moment2, weight }]).unwrap();
    assert!(before.iter().zip(&after).all(|(before, after)| before.equal(after)));
}

fn random(kind: Kind) -> Tensor {
    testing::random(&[3, 20_001], kind)
}

/// One step in FP64: both moments and the weight after it.
fn reference(cautious: bool, tensors: [&Tensor; 4]) -> [Tensor; 3] {
    let [g, mut m, mut v, mut p] = tensors.map(|tensor| tensor.to_kind(Kind::Double).copy());
    let scalars = SCALARS.to_array().map(|scalar| Tensor::from(f64::from(scalar)));
    let g = g * f64::from(SCALARS.grad_scale);
    step_reference(scalars, cautious, &g, [&mut m, &mut v], &mut p).unwrap();
    [m, v, p]
}

fn assert_close(found: &Tensor, expected: &Tensor) {
    let error = (found.to_kind(Kind::Double) - expected).abs() / (expected.abs() + 0.1);
    let worst = f64::try_from(error.max()).unwrap();
    assert!(worst < 2e-6, "relative error {worst}");
}

#[test]
fn equals_the_formula_in_fp64_and_all_isas_agree() {
    for (grad_kind, cautious) in
        [(Kind::Float, false), (Kind::Float, true), (Kind::BFloat16, false), (Kind::BFloat16, true)]
    {
        let grad = random(grad_kind);
        let (m, v, p) = (random(Kind::Float), random(Kind::Float).abs(), random(Kind::Float));
        let expected = reference(cautious, [&grad, &m, &v, &p]);
        let mut first: Option<Vec<Tensor>> = None;
        for isa in Isa::available() {
            let mut found = vec![m.copy(), v.copy(), p.copy()];
            let [moment1, moment2, weight] = &mut found[..] else { unreachable!() };
            let (weight, numbers) = (Weight::Single(weight), &numbers());
            let update = ParamUpdate { numbers, cautious, grad: &grad, moment1, moment2, weight };
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
        let update = ParamUpdate { numbers, cautious: false, grad, moment1: m, moment2: v, weight };
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

#[test]
fn emulated_steps_have_the_bits_of_the_cpu() {
    let scalars = AdamwKernelScalars {
        grad_scale: 0.5,
        one_minus_beta1: 0.1,
        beta2: 0.98,
        one_minus_beta2: 0.02,
        inverse_sqrt_correction2: 3.0,
        eps: 1e-6,
        decay_factor: 0.999,
        step_size: 1e-2,
    };
    let numbers = &Tensor::from_slice(&scalars.to_array());
    // More tensors than a launch takes.
    let sets: Vec<Vec<Tensor>> = (0..40)
        .map(|index| {
            let count = [1, 7, 8, 8193][index % 4];
            let kind = [Kind::Float, Kind::BFloat16][index % 2];
            let moment = || testing::random(&[count], Kind::Float).abs();
            let mut set = vec![testing::random(&[count], kind), moment(), moment()];
            set.extend(
                weight_forms(&testing::random(&[count], Kind::Float))[index % 3]
                    .iter()
                    .map(Tensor::copy),
            );
            set
        })
        .collect();
    let run = |emulated: bool| {
        let mut sets: Vec<Vec<Tensor>> =
            sets.iter().map(|set| set.iter().map(Tensor::copy).collect()).collect();
        let updates = sets.iter_mut().map(|set| {
            let [grad, moment1, moment2, rest @ ..] = &mut set[..] else { unreachable!() };
            ParamUpdate { numbers, cautious: true, grad, moment1, moment2, weight: weight_of(rest) }
        });
        let updates: Vec<_> = updates.collect();
        match emulated {
            true => cuda::step(&updates, Device::Cpu).unwrap(),
            false => step(updates).unwrap(),
        }
        sets.into_iter().flatten().collect::<Vec<_>>()
    };
    assert!(run(true).iter().zip(&run(false)).all(|(found, expected)| found.equal(expected)));
}
