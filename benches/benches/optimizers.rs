//! Criterion benches: AdamW against a copy and libtorch's operations, polar factors by both
//! iterations. Few samples, as a step takes up to seconds.

use std::hint::black_box;

use bert4rs_benches::{bert_base, grads};
use bert4rs_optim::polar::{Coefficients, Iteration, PolarCompute, PolarOptions, polar_factor};
use bert4rs_optim::{Masters, Optimizer, OptimizerConfig, UpdateImplementation};
use bert4rs_tensor_core::{Device, Kind, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn adamw(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("adamw over BERT-base");
    group.sample_size(10);
    for (name, kind, masters, implementation) in [
        ("fp32 fused", Kind::Float, Masters::Fp32, UpdateImplementation::Fused),
        ("fp32 plain", Kind::Float, Masters::Fp32, UpdateImplementation::Plain),
        ("bf16 fused", Kind::BFloat16, Masters::Fp32, UpdateImplementation::Fused),
        ("bf16 low bits", Kind::BFloat16, Masters::Bf16Residual, UpdateImplementation::Fused),
    ] {
        let mut config = OptimizerConfig::adamw(1e-4);
        (config.adamw.implementation, config.masters, config.clip) =
            (implementation, masters, None);
        let mut params = bert_base((kind, Device::Cpu));
        let grads = grads(&params);
        let Ok(mut optimizer) = Optimizer::new(config, &mut params) else { continue };
        let values: usize = params.iter().map(|param| param.weight.numel()).sum();
        group.throughput(Throughput::Elements(values as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(optimizer.step(&mut params, &grads, 1.0).is_ok()));
        });
    }
    let from = Tensor::ones([1 << 26], (Kind::Float, Device::Cpu));
    let mut to = from.zeros_like();
    group.throughput(Throughput::Bytes(2 * (4 << 26)));
    group.bench_function("copy of 256 MiB", |bencher| bencher.iter(|| to.copy_(&from)));
    group.finish();
}

fn factors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("polar factor");
    group.sample_size(10);
    for (n, m) in [(768, 768), (768, 1536), (768, 3072)] {
        let stack = Tensor::randn([2, n, m], (Kind::Float, Device::Cpu));
        for (compute, iteration) in [
            (PolarCompute::Fp32, Iteration::Standard),
            (PolarCompute::Fp32, Iteration::Gram),
            (PolarCompute::Bf16, Iteration::Standard),
        ] {
            let coefficients = Coefficients::polar_express(5);
            let options = PolarOptions { compute, iteration, ..PolarOptions::new(coefficients) };
            group.bench_function(format!("2x{n}x{m} {compute:?} {iteration:?}"), |bencher| {
                bencher.iter(|| black_box(polar_factor(&stack, &options).is_ok()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, adamw, factors);
criterion_main!(benches);
