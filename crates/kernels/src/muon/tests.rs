//! Against the formulas in FP64, and the CUDA kernels against the CPU.

use bert4rs_tensor_core::Kind;

use super::*;
use crate::testing::{distance, random as random_of, weight_forms, weight_of};

const SHAPES: [(i64, i64); 6] = [(1, 1), (3, 70), (70, 3), (64, 64), (100, 37), (37, 100)];

fn numbers(one_minus_momentum: f32, grad_scale: f32) -> Tensor {
    let scalars = MuonKernelScalars { one_minus_momentum, grad_scale, lr: 2.0, decay_factor: 0.9 };
    Tensor::from_slice(&scalars.to_array())
}

/// The scalars one by one, in FP64.
fn exact(numbers: &Tensor) -> [Tensor; MuonKernelScalars::COUNT] {
    numbers.to_kind(Kind::Double).unbind(0).try_into().unwrap()
}

#[test]
fn a_factor_of_0_hides_what_is_not_finite() {
    let numbers = &numbers(0.0, 0.0);
    for nesterov in [false, true] {
        let args = MomentumArgs { numbers, nesterov, norm_factor: 1.0 };
        let (g, m) = (random(20, 30, Kind::Float) * f64::NAN, random(20, 30, Kind::Float));
        let (mut moved, mut x) = (m.copy(), m.zeros_like());
        momentum_update(&args, &g, &mut moved, &mut x).unwrap();
        let norm = f64::try_from(double(&x).norm()).unwrap();
        assert!(moved.equal(&m) && (norm - 1.0).abs() < 1e-5, "{norm}");
    }
}

fn random(rows: i64, cols: i64, kind: Kind) -> Tensor {
    random_of(&[rows, cols], kind)
}

fn double(tensor: &Tensor) -> Tensor {
    tensor.to_kind(Kind::Double)
}

fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    let error = (double(found) - expected).abs().max() / expected.abs().max().clamp_min(1e-30);
    let error = f64::try_from(error).unwrap();
    assert!(error < tolerance, "{what}: off by {error}");
}

/// The matrix as it lies in a stack.
fn stacked(matrix: &Tensor) -> Tensor {
    let (rows, cols) = matrix.size2().unwrap();
    if rows > cols { matrix.tr().contiguous() } else { matrix.copy() }
}

#[test]
fn momentum_and_updates_are_what_the_formula_says() {
    let kinds = [Kind::Float, Kind::BFloat16];
    for (rows, cols) in SHAPES {
        for (grad_kind, kind, nesterov) in kinds
            .into_iter()
            .flat_map(|grad| kinds.map(|kind| (grad, kind)))
            .flat_map(|(grad, kind)| [true, false].map(|nesterov| (grad, kind, nesterov)))
        {
            let numbers = &numbers(0.1, 0.5);
            let args = MomentumArgs { numbers, nesterov, norm_factor: 1.02 };
            let g = random(rows, cols, grad_kind);
            let mut m = random(rows, cols, Kind::Float);
            let (scaled, mut moved) = (double(&g) * 0.5, double(&m).copy());
            let mut u = moved.zeros_like();
            momentum_update_reference(&exact(numbers), nesterov, &scaled, &mut moved, &mut u)
                .unwrap();
            let expected = stacked(&(&u / (u.norm() * 1.02)));
            let mut x = Tensor::zeros(expected.size(), (kind, Device::Cpu));
            momentum_update(&args, &g, &mut m, &mut x).unwrap();
            let what = format!("{rows}x{cols} {grad_kind:?} {kind:?}");
            assert_close(&m, &moved, 1e-6, &what);
            assert_close(&x, &expected, if kind == Kind::Float { 1e-6 } else { 5e-3 }, &what);
        }
    }
}

#[test]
fn zero_and_extreme_updates_stay_finite() {
    let numbers = &numbers(0.05, 1.0);
    let args = MomentumArgs { numbers, nesterov: true, norm_factor: 1.0 };
    for scale in [0.0, 1e-30, 1e30] {
        let g = random(20, 30, Kind::Float) * scale;
        let (mut m, mut x) = (g.zeros_like(), g.zeros_like());
        momentum_update(&args, &g, &mut m, &mut x).unwrap();
        let norm = f64::try_from(double(&x).norm()).unwrap();
        let expected = if scale == 0.0 { 0.0 } else { 1.0 };
        assert!((norm - expected).abs() < 1e-5, "{scale}: {norm}");
    }
}

#[test]
fn sums_squares_of_rows_and_columns() {
    for (rows, cols) in SHAPES {
        for kind in [Kind::Float, Kind::BFloat16] {
            let o = random(rows, cols, kind);
            for of_columns in [false, true] {
                let axis = i64::from(!of_columns);
                let expected = double(&o).square().sum_dim_intlist(axis, false, Kind::Double);
                let found = sums_of_squares(&o, of_columns).unwrap();
                assert_close(&found, &expected, 1e-6, &format!("{rows}x{cols} {kind:?}"));
            }
        }
    }
}

#[test]
fn applies_to_every_form_of_weight() {
    for (rows, cols) in SHAPES {
        for (kind, cautious) in [(Kind::Float, false), (Kind::BFloat16, true)] {
            let (o, p) = (random(rows, cols, kind), random(rows, cols, Kind::Float));
            let (row, col) = (random(rows, 1, Kind::Float), random(1, cols, Kind::Float).abs());
            let (numbers, mut expected) = (&numbers(0.1, 1.0), double(&p).copy());
            let mut scaled = double(&o) * double(&row) * double(&col) * 0.25;
            apply_update_reference(&exact(numbers), cautious, &mut scaled, &mut expected).unwrap();
            let (row, col) = (Some(&row), Some(&col));
            let numbers = UpdateArgs { numbers, factor: 0.25, row, col, cautious };
            let o = stacked(&o);
            let mut single = p.copy();
            apply_update(&numbers, &o, Weight::Single(&mut single)).unwrap();
            assert_close(&single, &expected, 1e-6, &format!("{rows}x{cols} {kind:?}"));

            let (mut master, mut weight) = (p.copy(), p.to_kind(Kind::BFloat16));
            let both = Weight::Master { master: &mut master, weight: &mut weight };
            apply_update(&numbers, &o, both).unwrap();
            assert!(master.equal(&single) && weight.equal(&single.to_kind(Kind::BFloat16)));

            let (mut weight, mut low) = crate::weight::split_tensor(&p).unwrap();
            apply_update(
                &numbers,
                &o,
                Weight::Bf16Residual { weight: &mut weight, residual: &mut low },
            )
            .unwrap();
            assert!(crate::weight::join_tensor(&weight, &low).unwrap().equal(&single));
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let numbers = &numbers(0.1, 1.0);
    let args = MomentumArgs { numbers, nesterov: true, norm_factor: 1.0 };
    let g = random(4, 8, Kind::Float);
    let (mut m, mut x) = (random(4, 8, Kind::Float), random(8, 4, Kind::Float));
    assert!(momentum_update(&args, &g, &mut m, &mut x).is_err());
    let mut alias = m.shallow_clone();
    assert!(momentum_update(&args, &g, &mut m, &mut alias).is_err());
    let numbers = UpdateArgs { numbers, factor: 1.0, row: None, col: None, cautious: false };
    assert!(apply_update(&numbers, &x, Weight::Single(&mut m)).is_err());
    assert!(apply_update(&numbers, &alias, Weight::Single(&mut m)).is_err());
}

fn muon_scalars() -> [f32; 4] {
    let (one_minus_momentum, grad_scale, lr, decay_factor) = (0.05, 0.5, 0.2, 0.9);
    crate::muon::MuonKernelScalars { one_minus_momentum, grad_scale, lr, decay_factor }.to_array()
}

#[test]
fn emulated_passes_equal_the_cpu() {
    let numbers = &Tensor::from_slice(&muon_scalars());
    let args = MomentumArgs { numbers, nesterov: true, norm_factor: 1.01 };
    for (rows, cols) in [(1, 1), (5, 7), (72, 136), (136, 72), (130, 70)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (grad, m) = (random_of(&[rows, cols], kind), random_of(&[rows, cols], Kind::Float));
            let empty = || Tensor::zeros([rows.min(cols), rows.max(cols)], (kind, Device::Cpu));
            let (mut m1, mut x1, mut m2, mut x2) = (m.copy(), empty(), m.copy(), empty());
            momentum_update(&args, &grad, &mut m1, &mut x1).unwrap();
            let sides = (rows as usize, cols as usize);
            cuda::momentum_update(&args, &grad, &mut m2, &mut x2, sides).unwrap();
            assert!(m1.equal(&m2) && distance(&x2, &x1) < 3e-3);
            for of_columns in [false, true] {
                let sides = (x1.size()[0] as usize, x1.size()[1] as usize);
                let found = cuda::sums_of_squares(&x1, of_columns, sides).unwrap();
                let expected = sums_of_squares(&x1, of_columns).unwrap();
                assert!(distance(&found, &expected) < 1e-5);
            }
            let row = random_of(&[rows], Kind::Float);
            let col = random_of(&[cols], Kind::Float);
            let (row, col) = [(Some(&row), None), (Some(&row), Some(&col))][usize::from(rows > 5)];
            let numbers = UpdateArgs { numbers, factor: 0.5, row, col, cautious: true };
            for mut found in weight_forms(&random_of(&[rows, cols], Kind::Float)) {
                let mut expected: Vec<Tensor> = found.iter().map(Tensor::copy).collect();
                apply_update(&numbers, &x1, weight_of(&mut expected)).unwrap();
                cuda::apply_update(&numbers, &x1, &weight_of(&mut found), sides).unwrap();
                assert!(found.iter().zip(&expected).all(|(a, b)| a.equal(b)), "{rows} {cols}");
            }
        }
    }
}
