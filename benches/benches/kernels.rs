//! Criterion benches: each kernel of a training step against libtorch's operations, forward and
//! backward together, in BF16 and FP32.

use std::hint::black_box;

use bert4rs_benches::own_kernels;
use bert4rs_kernels::activation::{Activation, activate};
use bert4rs_kernels::attention::{self, AttentionArgs, VisibleKeys};
use bert4rs_kernels::cross_entropy::{self, OutputWeights, linear_cross_entropy};
use bert4rs_kernels::embedding::lookup;
use bert4rs_kernels::norm::{self, NormArgs, NormKind};
use bert4rs_kernels::rotary::{Angles, HeadNorm, rotate};
use bert4rs_tensor_core::attention::{
    AttentionImplementation, AttentionOptions, MaskView, Scores, attend,
};
use bert4rs_tensor_core::{Device, Kind, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};

/// Normal numbers that ask for gradients.
fn leaf(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind).set_requires_grad(true)
}

/// Takes the gradients of `inputs` from a gradient of the result of ones.
fn backward(result: &Tensor, inputs: &[&Tensor]) {
    black_box(Tensor::run_backward(&[result.sum(Kind::Float)], inputs, false, false));
}

/// 4 rows of 512 tokens in 12 heads, in documents of 170 tokens or in one.
fn attend_both_ways(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention 4x12x512x64");
    group.sample_size(10);
    let place = Tensor::arange(512, (Kind::Int64, Device::Cpu));
    for kind in [Kind::BFloat16, Kind::Float] {
        let qkv: [Tensor; 3] = std::array::from_fn(|_| leaf(&[4, 512, 12, 64], kind));
        let heads = || qkv.each_ref().map(|x| x.transpose(1, 2));
        let inputs = qkv.each_ref();
        for (name, length) in [("one document", 512), ("documents of 170", 170)] {
            let documents = place.divide_scalar_mode(length, "floor").expand([4, 512], false);
            let same = documents.unsqueeze(2).eq_tensor(&documents.unsqueeze(1)).unsqueeze(1);
            let whole = length == 512;
            let own_visible = VisibleKeys {
                documents: (!whole).then_some((&documents, &documents)),
                ..VisibleKeys::default()
            };
            let visible = if whole { MaskView::All } else { MaskView::Mask(&same) };
            group.bench_function(format!("{kind:?}, {name}, libtorch"), |bencher| {
                let options = AttentionOptions {
                    implementation: AttentionImplementation::Fused,
                    dropout: 0.0,
                };
                let scores = Scores { visible, scale: None };
                bencher.iter(|| {
                    let [q, k, v] = heads();
                    let Ok(out) = attend(&q, &k, &v, &scores, &options) else { return };
                    backward(&out, &inputs);
                });
            });
            group.bench_function(format!("{kind:?}, {name}, own"), |bencher| {
                let args = AttentionArgs { visible: own_visible, bias: None, scale: 0.125 };
                bencher.iter(|| {
                    let [q, k, v] = heads();
                    let Ok(out) = attention::attend(&q, &k, &v, &args) else { return };
                    backward(&out, &inputs);
                });
            });
        }
    }
    group.finish();
}

/// 2048 tokens of 3072 features, alone and as a gate.
fn activate_both_ways(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("activation 2048x3072");
    group.sample_size(10);
    let shape = [2048, 3072];
    for (kind, activation) in [Kind::BFloat16, Kind::Float].into_iter().flat_map(|kind| {
        [(kind, Activation::Gelu), (kind, Activation::GeluTanh), (kind, Activation::Silu)]
    }) {
        let (x, gated) = (leaf(&shape, kind), leaf(&shape, kind));
        let plain = || activation.forward(&x);
        group.bench_function(format!("{kind:?} {activation:?}, libtorch"), |bencher| {
            bencher.iter(|| backward(&plain(), &[&x]));
        });
        group.bench_function(format!("{kind:?} {activation:?}, own"), |bencher| {
            bencher.iter(|| activate(activation, &x, None).map(|y| backward(&y, &[&x])).is_ok());
        });
        group.bench_function(format!("{kind:?} {activation:?} gate, libtorch"), |bencher| {
            bencher.iter(|| backward(&(plain() * &gated), &[&x, &gated]));
        });
        group.bench_function(format!("{kind:?} {activation:?} gate, own"), |bencher| {
            let inputs = [&x, &gated];
            bencher.iter(|| {
                activate(activation, &x, Some(&gated)).map(|y| backward(&y, &inputs)).is_ok()
            });
        });
    }
    group.finish();
}

/// The norm of a sum in both placements, and alone; as in a model, with a dense gradient of each
/// use.
fn normalize_both_ways(criterion: &mut Criterion) {
    for features in [256, 768] {
        let mut group = criterion.benchmark_group(format!("norm 2048x{features}"));
        for kind in [Kind::BFloat16, Kind::Float] {
            let [x, y] = [(); 2].map(|()| leaf(&[2048, features], kind));
            let [dx, dy] = [(); 2].map(|()| leaf(&[2048, features], kind).detach());
            let (weight, bias) = (leaf(&[features], kind), leaf(&[features], kind));
            let used = |first: &Tensor, second: &Tensor, inputs: &[&Tensor]| {
                let loss = (first * &dx).sum(Kind::Float) + (second * &dy).sum(Kind::Float);
                black_box(Tensor::run_backward(&[loss], inputs, false, false));
            };
            for norm_kind in [NormKind::Layer, NormKind::Rms] {
                let bias = (norm_kind == NormKind::Layer).then_some(&bias);
                let norm = NormArgs { norm_kind, weight: &weight, bias, eps: 1e-5 };
                let plain = |s: &Tensor| match norm_kind {
                    NormKind::Layer => s.layer_norm([features], Some(&weight), bias, 1e-5, false),
                    NormKind::Rms => s.rms_norm([features], Some(&weight), 1e-5),
                };
                let inputs: Vec<&Tensor> = [&x, &y, &weight].into_iter().chain(bias).collect();
                let name = format!("{kind:?} {norm_kind:?}");
                group.bench_function(format!("{name} of a sum, libtorch"), |bencher| {
                    bencher.iter(|| {
                        let normed = plain(&(&x + &y));
                        used(&normed, &normed, &inputs);
                    });
                });
                group.bench_function(format!("{name} of a sum, own"), |bencher| {
                    bencher.iter(|| {
                        let found = norm::normalize_sum(&norm, &x, &y);
                        found.map(|[first, twin]| used(&first, &twin, &inputs)).is_ok()
                    });
                });
                group.bench_function(format!("{name} and sum, libtorch"), |bencher| {
                    bencher.iter(|| {
                        let sum = &x + &y;
                        used(&plain(&sum), &sum, &inputs);
                    });
                });
                group.bench_function(format!("{name} and sum, own"), |bencher| {
                    bencher.iter(|| {
                        let found = norm::add_and_normalize(&norm, &x, Some(&y));
                        found.map(|[normed, sum]| used(&normed, &sum, &inputs)).is_ok()
                    });
                });
                let inputs: Vec<&Tensor> = [&x, &weight].into_iter().chain(bias).collect();
                group.bench_function(format!("{name} alone, libtorch"), |bencher| {
                    bencher.iter(|| backward(&(plain(&x) * &dx), &inputs));
                });
                group.bench_function(format!("{name} alone, own"), |bencher| {
                    let own = || norm::normalize(&norm, &x);
                    bencher.iter(|| own().map(|y| backward(&(y * &dx), &inputs)).is_ok());
                });
            }
        }
        group.finish();
    }
}

/// 4 rows of 512 tokens in 12 heads, of rows of their own and of the joint ones of queries, keys
/// and values, with the norm of each head and without.
fn rotate_both_ways(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rotary positions 4x512x12x64");
    for kind in [Kind::BFloat16, Kind::Float] {
        let (own_rows, joint) = (leaf(&[4, 512, 768], kind), leaf(&[4, 512, 2304], kind));
        let (weight, grad) = (leaf(&[64], kind), leaf(&[4, 512, 12, 64], kind).detach());
        let angles = Tensor::randn([512, 1, 64], (Kind::Float, Device::Cpu));
        let (cos, sin) = (angles.cos().to_kind(kind), angles.sin().to_kind(kind));
        let plain = |x: &Tensor, norm: Option<&HeadNorm>| {
            let normed = norm.map(|norm| x.rms_norm([64], Some(norm.weight), norm.eps));
            let x = normed.unwrap_or_else(|| x.shallow_clone());
            let halves = x.chunk(2, -1);
            let turned = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
            x * &cos + turned * &sin
        };
        for (rows, normed) in [("own", false), ("own", true), ("joint", false), ("joint", true)] {
            let source = if rows == "own" { &own_rows } else { &joint };
            let x = || source.narrow(2, 0, 768).unflatten(2, [12, 64]);
            let norm = normed.then_some(HeadNorm { weight: &weight, eps: 1e-6 });
            let mut inputs = vec![source];
            inputs.extend(norm.map(|norm| norm.weight));
            let name = format!("{kind:?}, {rows} rows{}", if normed { " and norm" } else { "" });
            group.bench_function(format!("{name}, libtorch"), |bencher| {
                bencher.iter(|| backward(&(plain(&x(), norm.as_ref()) * &grad), &inputs));
            });
            group.bench_function(format!("{name}, own"), |bencher| {
                let angles = Angles { cos: &cos, sin: &sin };
                let own = || rotate(&x(), &angles, norm.as_ref());
                bencher.iter(|| assert!(own().map(|y| backward(&(y * &grad), &inputs)).is_ok()));
            });
        }
    }
    group.finish();
}

/// 2048 rows of 256 features, over 30,000 classes.
fn cross_entropy_both_ways(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("output layer and cross-entropy 2048x256x30000");
    group.sample_size(10);
    for kind in [Kind::BFloat16, Kind::Float] {
        let (hidden, weight) = (leaf(&[2048, 256], kind), leaf(&[30_000, 256], kind));
        let (bias, inputs) = (leaf(&[30_000], kind), [&hidden, &weight]);
        let labels = Tensor::randint(30_000, [2048], (Kind::Int64, Device::Cpu));
        group.bench_function(format!("{kind:?}, libtorch"), |bencher| {
            bencher.iter(|| {
                let logits = hidden.linear(&weight, Some(&bias)).to_kind(Kind::Float);
                backward(&logits.cross_entropy_for_logits(&labels), &inputs);
            });
        });
        group.bench_function(format!("{kind:?}, own"), |bencher| {
            let output = OutputWeights { weight: &weight, bias: Some(&bias) };
            let options =
                cross_entropy::CrossEntropyOptions { ignored: -100, ..Default::default() };
            let policy = own_kernels();
            bencher.iter(|| {
                linear_cross_entropy(&hidden, output, &labels, None, &options, &policy)
                    .map(|loss| backward(&loss, &inputs))
                    .is_ok()
            });
        });
    }
    group.finish();
}

/// 2048 lookups in the table that an output layer of 8 rows has too, one id far more often than the
/// others, as that of masked tokens is.
fn look_up_both_ways(criterion: &mut Criterion) {
    for features in [256, 768] {
        let mut group = criterion.benchmark_group(format!("lookup 2048 of 30000x{features}"));
        for kind in [Kind::BFloat16, Kind::Float] {
            let (table, hidden) = (leaf(&[30_000, features], kind), leaf(&[8, features], kind));
            let dy = leaf(&[2048, features], kind).detach();
            let ids = Tensor::randint(30_000, [2048], (Kind::Int64, Device::Cpu));
            let is_masked = Tensor::rand([2048], (Kind::Float, Device::Cpu)).lt(0.12);
            let ids = ids.masked_fill(&is_masked, 103);
            let used = |y: &Tensor| {
                let loss = (y * &dy).sum(Kind::Float) + hidden.matmul(&table.tr()).sum(Kind::Float);
                black_box(Tensor::run_backward(&[loss], &[&table], false, false));
            };
            group.bench_function(format!("{kind:?}, libtorch"), |bencher| {
                bencher.iter(|| used(&Tensor::embedding(&table, &ids, -1, false, false)));
            });
            group.bench_function(format!("{kind:?}, own"), |bencher| {
                bencher.iter(|| lookup(&table, &ids, None).map(|y| used(&y)).is_ok());
            });
        }
        group.finish();
    }
}

criterion_group!(
    benches,
    attend_both_ways,
    activate_both_ways,
    normalize_both_ways,
    rotate_both_ways,
    cross_entropy_both_ways,
    look_up_both_ways
);
criterion_main!(benches);
