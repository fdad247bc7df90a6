use bert4rs_tensor_core::Kind;

use super::*;
use crate::testing::{distance, random as random_of};

const ALL: [Fp8Scaling; 3] = [Fp8Scaling::Tensor, Fp8Scaling::Delayed, Fp8Scaling::Row];

fn random(shape: &[i64], kind: Kind) -> Tensor {
    random_of(shape, kind).set_requires_grad(true)
}

fn grads(y: &Tensor, weights: &Tensor, inputs: &[&Tensor]) -> Vec<Tensor> {
    Tensor::run_backward(&[(y * weights).sum(Kind::Float)], inputs, false, false)
}

#[test]
fn values_and_gradients_are_near_the_exact_ones() {
    for (scaling, kind) in ALL.into_iter().flat_map(|s| [(s, Kind::Float), (s, Kind::BFloat16)]) {
        let map = Fp8Linear::new(scaling, OverflowCount::default());
        let (w, bias) = (random(&[48, 64], kind), random(&[48], kind));
        // The second and third time, delayed factors come from what was seen before.
        for _ in 0..3 {
            let x = random(&[5, 7, 64], kind);
            let y = map.forward(&x, &w, Some(&bias)).unwrap();
            assert_eq!((y.size(), y.kind()), (vec![5, 7, 48], kind));
            let exact = x.linear(&w, Some(&bias));
            // What exceeds everything seen before is cut off.
            let bound = if scaling == Fp8Scaling::Delayed { 0.08 } else { 0.045 };
            assert!(distance(&y, &exact) < bound, "{scaling:?}: {}", distance(&y, &exact));
            let weights = random(&[5, 7, 48], kind).detach();
            let found = grads(&y, &weights, &[&x, &w, &bias]);
            let expected = grads(&exact, &weights, &[&x, &w, &bias]);
            for (found, expected) in found.iter().zip(&expected).take(2) {
                let error = distance(found, expected);
                assert!(error > 1e-4, "{scaling:?}: nothing was rounded");
                assert!(error < 0.09, "{scaling:?}: {error}");
            }
            assert!(distance(&found[2], &expected[2]) < 1e-2);
        }
    }
}

#[test]
fn numbers_that_fp8_holds_give_the_exact_product() {
    // Seven times a power of two: so is 448, and so is what any row's factor makes of it.
    let powers = |shape: &[i64]| {
        let exponent = Tensor::randint(4, shape, (Kind::Float, Device::Cpu));
        let sign = Tensor::randint(2, shape, (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
        exponent.exp2() * sign * 7.0
    };
    for scaling in ALL {
        let map = Fp8Linear::new(scaling, OverflowCount::default());
        let (x, w) = (powers(&[6, 32]), powers(&[16, 32]));
        let y = map.forward(&x, &w, None).unwrap();
        assert!(distance(&y, &x.linear(&w, None::<Tensor>)) < 1e-6, "{scaling:?}");
    }
}

#[test]
fn delayed_factors_overflow_where_values_grow_and_recover() {
    let overflows = OverflowCount::default();
    let map = Fp8Linear::new(Fp8Scaling::Delayed, overflows.clone());
    let w = random(&[16, 16], Kind::Float);
    let x = random(&[8, 16], Kind::Float);
    let loud = &x * 100.0;
    let forward = |x: &Tensor| map.forward(x, &w, None).unwrap();
    let _ = forward(&x);
    assert_eq!(overflows.read().unwrap(), 0);
    let _ = forward(&loud);
    let overflowed = overflows.read().unwrap();
    assert!(overflowed > 0, "the factor was that of the step before");
    let y = forward(&loud);
    assert_eq!(overflows.read().unwrap(), overflowed);
    assert!(distance(&y, &loud.linear(&w, None::<Tensor>)) < 0.045);
}

#[test]
fn a_row_of_small_values_keeps_its_digits_with_a_factor_of_its_own() {
    let x = random(&[2, 64], Kind::Float).detach();
    let x = x * Tensor::from_slice(&[1.0f32, 1e-6]).view([2, 1]);
    let w = random(&[16, 64], Kind::Float).detach();
    let exact = x.linear(&w, None::<Tensor>);
    let error = |scaling| {
        let y = Fp8Linear::new(scaling, OverflowCount::default()).forward(&x, &w, None).unwrap();
        distance(&y.narrow(0, 1, 1), &exact.narrow(0, 1, 1))
    };
    assert!(error(Fp8Scaling::Row) < 0.06);
    assert!(error(Fp8Scaling::Tensor) > 0.3);
}

#[test]
fn only_what_needs_a_gradient_gets_one() {
    let map = Fp8Linear::new(Fp8Scaling::Tensor, OverflowCount::default());
    let (x, w) = (random(&[4, 16], Kind::Float), random(&[8, 16], Kind::Float));
    let y = map.forward(&x.detach(), &w, None).unwrap();
    y.sum(Kind::Float).backward();
    assert!(w.grad().defined() && !x.grad().defined());
    let y = map.forward(&x, &w.detach(), None).unwrap();
    y.sum(Kind::Float).backward();
    assert!(x.grad().defined());
}

#[test]
fn a_weight_of_another_width_is_refused() {
    let map = Fp8Linear::new(Fp8Scaling::Tensor, OverflowCount::default());
    let (x, w) = (random(&[4, 16], Kind::Float), random(&[8, 15], Kind::Float));
    let error = map.forward(&x, &w, None).unwrap_err().to_string();
    assert!(error.contains("[outputs, 16]"), "{error}");
}
