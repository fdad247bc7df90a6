//! Properties of the polar factor, and of Muon's updates.

use bert4rs_optim::polar::{Coefficients, Iteration, PolarCompute, PolarOptions, polar_factor};
use bert4rs_optim::{Optimizer, OptimizerConfig};
use bert4rs_tensor_core::param::Role;
use bert4rs_tensor_core::{Device, Kind, Tensor};
use proptest::prelude::*;

use crate::{distance, param, random};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Orthogonal columns.
fn orthogonal(rows: i64, cols: i64, seed: u64) -> Tensor {
    Tensor::linalg_qr(&random(&[rows, cols], seed).to_kind(Kind::Double), "reduced").0
}

/// A matrix with singular values evenly spaced in their logarithm from 1 to `1 / condition`.
fn with_condition(rows: i64, cols: i64, condition: f64) -> Tensor {
    let smaller = rows.min(cols);
    let exponents = Tensor::linspace(0.0, -condition.ln(), smaller, DOUBLE);
    let (left, right) = (orthogonal(rows, smaller, 1), orthogonal(cols, smaller, 2));
    left.matmul(&exponents.exp().diag(0)).matmul(&right.tr())
}

/// `‖XXᵀ - I‖` over the smaller side, largest value.
fn defect(factor: &Tensor) -> f64 {
    let (rows, cols) = factor.size2().unwrap();
    let x = factor.to_kind(Kind::Double);
    let x = if rows > cols { x.tr() } else { x };
    let square = x.matmul(&x.tr());
    f64::try_from((square - Tensor::eye(rows.min(cols), DOUBLE)).abs().max()).unwrap()
}

fn options(steps: usize, compute: PolarCompute, iteration: Iteration) -> PolarOptions {
    let coefficients = Coefficients::polar_express(steps);
    PolarOptions { compute, iteration, ..PolarOptions::new(coefficients) }
}

#[test]
fn enough_steps_give_the_factor_to_fp32_accuracy() {
    for (rows, cols) in [(64, 64), (48, 128), (128, 48)] {
        for condition in [1.0, 30.0, 1e3] {
            let matrix = with_condition(rows, cols, condition).to_kind(Kind::Float);
            let options = PolarOptions::new(Coefficients::polar_express(9));
            let defect = defect(&polar_factor(&matrix, &options).unwrap());
            assert!(defect < 1e-6, "{rows}x{cols}, condition {condition}: {defect:e}");
        }
    }
}

#[test]
fn errors_are_within_the_guarantee() {
    for (steps, bound) in [(4, 0.577), (5, 0.142), (6, 0.0024), (7, 1e-6), (8, 1e-6)] {
        // Relative to the norm, which is what the lower bound of 1e-3 is relative to.
        let matrix = with_condition(32, 80, 100.0);
        for iteration in [Iteration::Standard, Iteration::Gram] {
            let factor =
                polar_factor(&matrix, &options(steps, PolarCompute::Input, iteration)).unwrap();
            let (_, values, _) = factor.svd(true, false);
            let worst = f64::try_from((values - 1.0).abs().max()).unwrap();
            assert!(worst < bound, "{steps} steps, {iteration:?}: {worst}");
        }
    }
}

#[test]
fn rank_deficient_and_zero_matrices_stay_bounded() {
    let low_rank = random(&[96, 4], 1).matmul(&random(&[4, 256], 2));
    for compute in [PolarCompute::Fp32, PolarCompute::Bf16, PolarCompute::Fp16] {
        for iteration in [Iteration::Standard, Iteration::Gram] {
            let options = options(5, compute, iteration);
            if options.validate("test").is_err() {
                continue;
            }
            let factor = polar_factor(&low_rank, &options).unwrap().to_kind(Kind::Double);
            let (_, values, _) = factor.svd(true, false);
            let largest = f64::try_from(values.max()).unwrap();
            assert!(largest < 1.25, "{compute:?} {iteration:?}: {largest}");
            let zero = polar_factor(&low_rank.zeros_like(), &options).unwrap();
            assert_eq!(f64::try_from(zero.abs().max()).unwrap(), 0.0);
        }
    }
}

#[test]
fn standard_and_gram_agree_where_both_are_safe() {
    let matrix = with_condition(64, 256, 300.0).to_kind(Kind::Float);
    let at = |compute, iteration| polar_factor(&matrix, &options(5, compute, iteration)).unwrap();
    let exact = at(PolarCompute::Fp32, Iteration::Standard);
    assert!(distance(&at(PolarCompute::Fp32, Iteration::Gram), &exact) < 2e-3);
    assert!(distance(&at(PolarCompute::Fp16, Iteration::Gram), &exact) < 5e-2);
    assert!(distance(&at(PolarCompute::Bf16, Iteration::Standard), &exact) < 0.1);
    // Four times as wide as high: small matrices in FP32, where the kernel has both dtypes.
    assert!(distance(&at(PolarCompute::Bf16, Iteration::Auto), &exact) < 0.1);
    assert!(distance(&at(PolarCompute::Auto, Iteration::Auto), &exact) < 0.1);
    assert!(distance(&at(PolarCompute::Auto, Iteration::Gram), &exact) < 2e-3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_scale_of_the_input_matters(
        rows in 2i64..24, cols in 2i64..24, exponent in -20i32..=20, seed in 0u64..1000,
    ) {
        let matrix = random(&[rows, cols], seed);
        let options = PolarOptions::new(Coefficients::polar_express(5));
        let factor = polar_factor(&matrix, &options).unwrap();
        let scaled = polar_factor(&(matrix * 10f64.powi(exponent)), &options).unwrap();
        // Scaling rounds the input in FP32, and five steps magnify that up to 989 times where a
        // singular value is near 0.
        prop_assert!(distance(&scaled, &factor) < 2e-3);
    }

    #[test]
    fn rotations_and_transposition_pass_through(
        rows in 2i64..24, cols in 2i64..24, seed in 0u64..1000,
    ) {
        let matrix = random(&[rows, cols], seed).to_kind(Kind::Double);
        let rotation = orthogonal(rows, rows, seed + 1);
        let options = PolarOptions::new(Coefficients::polar_express(5));
        let factor = polar_factor(&matrix, &options).unwrap();
        let rotated = polar_factor(&rotation.matmul(&matrix), &options).unwrap();
        prop_assert!(distance(&rotated, &rotation.matmul(&factor)) < 1e-9);
        let transposed = polar_factor(&matrix.tr().contiguous(), &options).unwrap();
        prop_assert!(distance(&transposed, &factor.tr()) < 1e-9);
    }

    #[test]
    fn a_stack_is_one_by_one(
        count in 1i64..5, rows in 2i64..24, cols in 2i64..24, seed in 0u64..1000,
    ) {
        let stack = random(&[count, rows, cols], seed).to_kind(Kind::Double);
        let options = PolarOptions::new(Coefficients::polar_express(5));
        let together = polar_factor(&stack, &options).unwrap();
        let single = polar_factor(&stack.to_kind(Kind::Float), &options).unwrap();
        prop_assert!(distance(&single, &together) < 5e-3);
        for index in 0..count {
            let alone = polar_factor(&stack.get(index), &options).unwrap();
            prop_assert!(distance(&together.get(index), &alone) < 1e-9);
        }
    }
}

#[test]
fn a_zero_gradient_gives_a_zero_update() {
    for config in [OptimizerConfig::muon(0.02, 1e-3), OptimizerConfig::normuon(0.02, 1e-3)] {
        let value = random(&[6, 9], 1);
        let mut params = vec![param("w", Role::Matrix, &value)];
        let mut optimizer = Optimizer::new(config, &mut params).unwrap();
        for _ in 0..3 {
            optimizer.step(&mut params, &[value.zeros_like()], 1.0).unwrap();
        }
        assert!(params[0].weight.equal(&value));
    }
}
