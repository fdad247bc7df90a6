//! Against the formula in FP64, and the CUDA kernel against the CPU.

use super::cpu::{CHUNK, forward_on};
use super::*;
use crate::cpu::isa::Isa;
use crate::testing::{distance, random};

fn check_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let error = (found.to_kind(Kind::Double) - expected).abs();
    let allowed = expected.abs() * tolerance + tolerance;
    let over = (error - allowed).max().double_value(&[]);
    assert!(over <= 0.0, "{what}: {over:.2e} too far");
}

#[test]
fn equals_the_formulas_in_fp64_at_every_length() {
    for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 6e-3)] {
        for count in [0, 1, 15, 16, 17, 1000, 2 * CHUNK as i64 + 5] {
            let make = |scale: f64| {
                let x = random(&[count], Kind::Float) * scale;
                x.to_kind(kind).set_requires_grad(true)
            };
            let inputs = [make(3.0), make(1.0)];
            let double = |x: &Tensor| x.detach().to_kind(Kind::Double).set_requires_grad(true);
            let doubles = inputs.each_ref().map(double);
            for (activation, gate) in
                Activation::ALL.into_iter().flat_map(|f| [(f, false), (f, true)])
            {
                let name = format!("{activation:?} gate {gate} of {count} {kind:?}");
                let used = if gate { 2 } else { 1 };
                let found = activate(activation, &inputs[0], inputs[1..used].first()).unwrap();
                let expected = activation.forward_gated(&doubles[0], doubles[1..used].first());
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
    let activations = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];
    for activation in activations {
        for isa in Isa::available() {
            let mut y = vec![7f32; x.len()];
            forward_on::<f32>(isa, activation, &x, None, &mut y);
            assert!(y[0].abs() < 1e-6 && y[1].abs() < 1e-6, "{activation:?} {isa:?}: {y:?}");
            assert!((y[6] - 100.0).abs() < 1e-4 && y[7] == inf, "{activation:?} {isa:?}: {y:?}");
            assert!(y[8].is_nan(), "{activation:?} {isa:?}: {y:?}");
        }
    }
}

#[test]
fn refuses_a_gate_of_another_shape() {
    let x = |count: i64| Tensor::zeros([count], (Kind::Float, Device::Cpu));
    assert!(activate(Activation::Silu, &x(3), Some(&x(4))).is_err());
}

#[test]
fn emulated_activations_equal_the_cpu() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let inputs = [random(&[3001], kind) * 3.0, random(&[3001], kind)];
        let dy = random(&[3001], kind);
        for activation in Activation::ALL {
            for used in [1, 2] {
                let leaves: Vec<Tensor> =
                    inputs[..used].iter().map(|x| x.copy().set_requires_grad(true)).collect();
                let expected = activate(activation, &leaves[0], leaves.get(1)).unwrap();
                let y = cuda::forward(activation, &inputs[0], inputs[..used].get(1)).unwrap();
                assert!(distance(&y, &expected.detach()) < 4e-3);
                let loss = (expected * &dy).sum(Kind::Float);
                let expected = Tensor::run_backward(&[loss], &leaves, false, false);
                let (dx, du) = cuda::backward(activation, &inputs[..used], &dy).unwrap();
                for (found, expected) in [Some(dx), du].iter().flatten().zip(&expected) {
                    assert!(distance(found, expected) < 6e-3, "{activation:?} {kind:?}");
                }
            }
        }
    }
}

/// Values, and the gradients of both in FP64.
#[test]
fn emulated_activations_with_a_bias_equal_fp64() {
    for (kind, tolerance) in [(Kind::Float, 4e-6), (Kind::BFloat16, 6e-3)] {
        // Fewer columns than a block takes, and more; fewer rows than blocks, and more.
        for (rows, cols) in [(1, 8), (70, 24), (9, 264), (300, 40)] {
            let (x, dy) = (random(&[rows, cols], kind) * 2.0, random(&[rows, cols], kind));
            let bias = random(&[cols], kind);
            let exact = [&x, &bias].map(|x| x.to_kind(Kind::Double).set_requires_grad(true));
            for activation in Activation::ALL {
                let expected = activation.forward(&(&exact[0] + &exact[1]));
                let y = cuda::forward_biased(activation, &x, &bias).unwrap();
                assert!(distance(&y, &expected.detach()) < tolerance, "{activation:?} {kind:?}");
                let loss = (expected * dy.to_kind(Kind::Double)).sum(Kind::Double);
                let expected = Tensor::run_backward(&[loss], &exact, false, false);
                let (dx, db) = cuda::backward_biased(activation, &x, &bias, &dy).unwrap();
                for (found, expected) in [dx, db].iter().zip(&expected) {
                    let apart = distance(found, expected);
                    assert!(
                        apart < 2.0 * tolerance,
                        "{activation:?} {kind:?} {rows}x{cols}: {apart}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_bias_of_another_size_is_refused_and_a_cpu_adds_it_first() {
    let (x, bias) = (random(&[3, 16], Kind::Float), random(&[16], Kind::Float));
    let found = activate_biased(Activation::Gelu, &x, &bias).unwrap();
    assert!(found.equal(&activate(Activation::Gelu, &(&x + &bias), None).unwrap()));
    let wrong = random(&[15], Kind::Float);
    let error = activate_biased(Activation::Gelu, &x, &wrong).unwrap_err().to_string();
    assert!(error.contains("bias") && error.contains("[16]"), "{error}");
}
