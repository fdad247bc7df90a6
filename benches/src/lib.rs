//! Shared helpers of the benches: the shapes of real models, and timing.

use std::time::Instant;

use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::param::{Param, Role};
use bert4rs_tensor_core::policy::{Kernels, Policy};
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

/// The device that the first argument names; the CPU without one.
///
/// # Errors
/// No such device.
pub fn device_of_arguments() -> Result<Device> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "cpu".into());
    name.parse::<DeviceChoice>()?.resolve()
}

/// Own kernels wherever they are the faster ones, and on GPUs.
pub fn own_kernels() -> Policy {
    Policy::new(Kernels::Fused, true)
}

/// Layers of BERT-base.
pub const LAYERS: usize = 12;
/// Its width.
pub const WIDTH: i64 = 768;

/// One parameter of `kind`, with a master where that is not exact.
pub fn param(name: String, role: Role, shape: &[i64], (kind, device): (Kind, Device)) -> Param {
    let exact = Tensor::randn(shape, (Kind::Float, device)) * 0.02;
    let weight = exact.to_kind(kind);
    let master = (kind != Kind::Float).then_some(exact);
    Param { name, role, weight, master }
}

/// The hidden matrices of BERT-base: 48 of 768x768, 12 of 3072x768, 12 of 768x3072.
pub fn bert_base_hidden(options: (Kind, Device)) -> Vec<Param> {
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
            params.push(param(format!("{layer}.{name}"), Role::Matrix, &[rows, cols], options));
        }
    }
    params
}

/// All parameters of BERT-base, 110 million values.
pub fn bert_base(options: (Kind, Device)) -> Vec<Param> {
    let mut params = bert_base_hidden(options);
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
            params.push(param(format!("{layer}.{name}"), role, &[size], options));
        }
    }
    for (name, rows) in [("words", 30_522), ("positions", 512), ("segments", 2)] {
        params.push(param(name.to_owned(), Role::Embedding, &[rows, WIDTH], options));
    }
    params
}

/// Random gradients of `params`, of their dtype.
pub fn grads(params: &[Param]) -> Vec<Tensor> {
    let grad = |param: &Param| Tensor::randn_like(&param.weight.detach()) * 1e-3;
    params.iter().map(grad).collect()
}

/// Waits until `device` has done all that was launched on it.
///
/// # Panics
/// Where the device has failed.
pub fn wait(device: Device) {
    if device != Device::Cpu {
        let _ = Tensor::zeros([1], (Kind::Float, device)).double_value(&[0]);
    }
}

/// Calls between two waits: on a GPU enough that launching hides behind computing.
fn calls(device: Device) -> usize {
    if device == Device::Cpu { 1 } else { 20 }
}

/// Seconds of a call in the fastest of `rounds`, after one that is not counted.
pub fn fastest(device: Device, rounds: usize, mut call: impl FnMut()) -> f64 {
    let count = calls(device);
    let mut round = || {
        let start = Instant::now();
        (0..count).for_each(|_| call());
        wait(device);
        start.elapsed().as_secs_f64() / count as f64
    };
    round();
    (0..rounds).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Bytes a second of a copy between two buffers of 256 MiB, read and write counted, by all
/// threads of libtorch or by a GPU.
pub fn copy_bandwidth(device: Device) -> f64 {
    let from = Tensor::ones([1 << 26], (Kind::Float, device));
    let mut to = from.zeros_like();
    let seconds = fastest(device, 5, || to.copy_(&from));
    2.0 * (4u64 << 26) as f64 / seconds
}
