//! One binary for all tests that go through the public face of the crate.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod capturable;
mod factor;
mod masters;
mod memory;
mod sharding;
mod state;
mod turns;
mod vectors;

use bert4rs_optim::Optimizer;
use bert4rs_tensor_core::param::{Param, Role};
use bert4rs_tensor_core::{Kind, Tensor};

/// An FP32 or FP64 parameter.
fn param(name: &str, role: Role, value: &Tensor) -> Param {
    let weight = value.copy().set_requires_grad(true);
    Param { name: name.into(), role, weight, master: None }
}

/// Small parameters of several roles and shapes, with `kind` weights and masters if needed.
fn model(kind: Kind) -> Vec<Param> {
    let shapes: [(&str, Role, &[i64]); 5] = [
        ("query.weight", Role::Matrix, &[12, 8]),
        ("key.weight", Role::Matrix, &[8, 12]),
        ("value.weight", Role::Matrix, &[12, 8]),
        ("words.weight", Role::Embedding, &[20, 8]),
        ("norm.weight", Role::Norm, &[8]),
    ];
    let make = |(index, (name, role, shape)): (usize, (&str, Role, &[i64]))| {
        let exact = random(shape, index as u64) * 0.1;
        let mut param = param(name, role, &exact.to_kind(kind));
        param.master = (kind == Kind::BFloat16).then_some(exact);
        param
    };
    shapes.into_iter().enumerate().map(make).collect()
}

/// FP32 values in a bell-like shape of deviation 1, by `seed` alone: libtorch's generator is
/// shared by all tests that run at once.
fn random(shape: &[i64], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    let count: i64 = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| (0..12).map(|_| uniform()).sum()).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Gradients of step `step` for [`model`], the same at every call.
fn grads(params: &[Param], step: i64) -> Vec<Tensor> {
    let grad = |param: &Param| {
        let seed = param.name.bytes().fold(step as u64, |seed, byte| seed * 3 + u64::from(byte));
        random(&param.weight.size(), seed).to_kind(param.weight.kind())
    };
    params.iter().map(grad).collect()
}

fn run(optimizer: &mut Optimizer, params: &mut [Param], steps: std::ops::Range<i64>) {
    for step in steps {
        let grads = grads(params, step);
        let report = optimizer.step(params, &grads, 1.0).unwrap();
        assert!(!report.skipped);
    }
}

/// Largest difference, relative to the largest value.
fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let number = |tensor: Tensor| f64::try_from(tensor.abs().max()).unwrap();
    number(found - &expected) / number(expected).max(1e-30)
}
