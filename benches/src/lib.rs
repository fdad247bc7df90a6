//! Shared helpers of the benches: the shapes of real models, and timing.

use std::time::Instant;

use bert4rs_tensor_core::param::{Param, Role};
use bert4rs_tensor_core::{Device, Kind, Tensor};

/// Layers of BERT-base.
pub const LAYERS: usize = 12;
/// Its width.
pub const WIDTH: i64 = 768;

/// One parameter of `kind`, with a master where that is not exact.
pub fn param(name: String, role: Role, shape: &[i64], kind: Kind) -> Param {
    let exact = Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.02;
    let weight = exact.to_kind(kind);
    let master = (kind != Kind::Float).then_some(exact);
    Param { name, role, weight, master }
}

/// The hidden matrices of BERT-base: 48 of 768x768, 12 of 3072x768, 12 of 768x3072.
pub fn bert_base_hidden(kind: Kind) -> Vec<Param> {
    let mut params = Vec::new();
    for layer in 0..LAYERS {
        let shapes = [
            ("query", WIDTH, WIDTH),
            ("key", WIDTH, WIDTH),
            ("value", WIDTH, WIDTH),
            ("output", WIDTH, WIDTH),
            ("up", 4 * WIDTH, WIDTH),
            ("down", WIDTH, 4 * WIDTH),
        ];
        for (name, rows, cols) in shapes {
            params.push(param(format!("{layer}.{name}"), Role::Matrix, &[rows, cols], kind));
        }
    }
    params
}

/// All parameters of BERT-base, 110 million values.
pub fn bert_base(kind: Kind) -> Vec<Param> {
    let mut params = bert_base_hidden(kind);
    for layer in 0..LAYERS {
        for (name, role, size) in [
            ("query.bias", Role::Bias, WIDTH),
            ("key.bias", Role::Bias, WIDTH),
            ("value.bias", Role::Bias, WIDTH),
            ("output.bias", Role::Bias, WIDTH),
            ("up.bias", Role::Bias, 4 * WIDTH),
            ("down.bias", Role::Bias, WIDTH),
            ("norm1.weight", Role::Norm, WIDTH),
            ("norm1.bias", Role::Norm, WIDTH),
            ("norm2.weight", Role::Norm, WIDTH),
            ("norm2.bias", Role::Norm, WIDTH),
        ] {
            params.push(param(format!("{layer}.{name}"), role, &[size], kind));
        }
    }
    for (name, rows) in [("words", 30_522), ("positions", 512), ("segments", 2)] {
        params.push(param(name.to_owned(), Role::Embedding, &[rows, WIDTH], kind));
    }
    params
}

/// Random gradients of `params`, of their dtype.
pub fn grads(params: &[Param]) -> Vec<Tensor> {
    let grad = |param: &Param| Tensor::randn_like(&param.weight.detach()) * 1e-3;
    params.iter().map(grad).collect()
}

/// Seconds of the fastest of `rounds` calls, after one that is not counted.
pub fn fastest(rounds: usize, mut call: impl FnMut()) -> f64 {
    call();
    let time = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    };
    (0..rounds).map(|_| time(&mut call)).fold(f64::INFINITY, f64::min)
}

/// Bytes a second of a copy between two buffers of 256 MiB, read and write counted, by all
/// threads of libtorch.
pub fn copy_bandwidth() -> f64 {
    let from = Tensor::ones([1 << 26], (Kind::Float, Device::Cpu));
    let mut to = from.zeros_like();
    let seconds = fastest(5, || to.copy_(&from));
    2.0 * (4u64 << 26) as f64 / seconds
}
