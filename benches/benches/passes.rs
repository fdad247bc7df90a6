//! Criterion benches: what optimizers and FP8 do between products, and symmetric products, against
//! libtorch's operations.

#![expect(clippy::print_stdout, reason = "it says which benches this machine cannot run")]

use std::hint::black_box;

use bert4rs_kernels::fp8::{Factor, Format, cast};
use bert4rs_kernels::gemm::{self, OutputStructure, Rhs};
use bert4rs_kernels::muon::{self, MomentumArgs, MuonKernelScalars, UpdateArgs};
use bert4rs_kernels::sum_of_squares::sum_of_squares;
use bert4rs_kernels::weight::Weight;
use bert4rs_tensor_core::{Device, Kind, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};

const KINDS: [Kind; 2] = [Kind::BFloat16, Kind::Float];

fn random(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
}

/// `X Xᵀ` of stacked matrices, which is symmetric, and a product that is not.
fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("product 4x768x768x768");
    group.sample_size(10);
    for kind in KINDS {
        let [x, y] = [(); 2].map(|()| random(&[4, 768, 768], kind));
        if !gemm::supports(Device::Cpu, kind, 768) {
            println!("{kind:?}: this machine has no instructions for it");
            continue;
        }
        let own = |rhs, structure| gemm::product(1.0, &x, rhs, None, structure).is_ok();
        group.bench_function(format!("{kind:?} symmetric, libtorch"), |bencher| {
            bencher.iter(|| black_box(x.bmm(&x.transpose(1, 2))));
        });
        group.bench_function(format!("{kind:?} symmetric, own"), |bencher| {
            bencher.iter(|| assert!(own(Rhs::Transposed(&x), OutputStructure::Symmetric)));
        });
        group.bench_function(format!("{kind:?} full, libtorch"), |bencher| {
            bencher.iter(|| black_box(x.bmm(&y)));
        });
        group.bench_function(format!("{kind:?} full, own"), |bencher| {
            bencher.iter(|| assert!(own(Rhs::Plain(&y), OutputStructure::Full)));
        });
    }
    group.finish();
}

/// Momentum, Nesterov, norm and cast before the products of Muon; decay and step after them.
fn around_products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("around Muon's products, 3072x768");
    let shape = [3072, 768];
    let scalars = MuonKernelScalars {
        one_minus_momentum: 0.05,
        grad_scale: 1.0,
        lr: 0.02,
        decay_factor: 0.999,
    };
    let numbers = Tensor::from_slice(&scalars.to_array());
    for kind in KINDS {
        let (grad, mut momentum) = (random(&shape, kind), random(&shape, Kind::Float));
        let mut x_nm = random(&[768, 3072], kind);
        group.bench_function(format!("{kind:?} before, libtorch"), |bencher| {
            bencher.iter(|| {
                let grad = grad.to_kind(Kind::Float);
                let _ = momentum.lerp_(&grad, 0.05);
                let update = grad.lerp(&momentum, 0.95);
                let norm = update.norm() * 1.01;
                black_box((update / norm).transpose(0, 1).to_kind(kind).contiguous())
            });
        });
        group.bench_function(format!("{kind:?} before, own"), |bencher| {
            let args = MomentumArgs { numbers: &numbers, nesterov: true, norm_factor: 1.01 };
            bencher.iter(|| {
                assert!(muon::momentum_update(&args, &grad, &mut momentum, &mut x_nm).is_ok());
            });
        });
        let (mut weight, mut master) = (random(&shape, kind), random(&shape, Kind::Float));
        group.bench_function(format!("{kind:?} after, libtorch"), |bencher| {
            bencher.iter(|| {
                let _ = master.g_mul_scalar_(0.999);
                let _ = master.g_sub_(&(x_nm.transpose(0, 1).to_kind(Kind::Float) * 0.02));
                if kind != Kind::Float {
                    weight.copy_(&master);
                }
            });
        });
        let args =
            UpdateArgs { numbers: &numbers, factor: 1.0, row: None, col: None, cautious: false };
        group.bench_function(format!("{kind:?} after, own"), |bencher| {
            bencher.iter(|| {
                let weight = match kind {
                    Kind::Float => Weight::Single(&mut master),
                    _ => Weight::Master { master: &mut master, weight: &mut weight },
                };
                assert!(muon::apply_update(&args, &x_nm, weight).is_ok());
            });
        });
    }
    group.finish();
}

/// What clipping by norm reads: BERT-base's largest table.
fn norms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sum of squares, 30522x768");
    for kind in KINDS {
        let x = random(&[30_522, 768], kind);
        group.bench_function(format!("{kind:?}, libtorch"), |bencher| {
            bencher.iter(|| black_box(x.norm_scalaropt_dtype(2, Kind::Float)));
        });
        group.bench_function(format!("{kind:?}, own"), |bencher| {
            bencher.iter(|| assert!(sum_of_squares(&x).map(black_box).is_ok()));
        });
    }
    group.finish();
}

/// Scaled by its largest magnitude and cast, with the transposed copy and without.
fn casts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cast to e4m3, 2048x768");
    for kind in KINDS {
        let x = random(&[2048, 768], kind);
        let plain = || {
            let factor = Tensor::from(448.0f32) / x.abs().max().to_kind(Kind::Float);
            (x.to_kind(Kind::Float) * factor).clamp(-448.0, 448.0).to_kind(Kind::Float8e4m3fn)
        };
        for transposed in [false, true] {
            let name = format!("{kind:?}{}", if transposed { " both ways" } else { "" });
            group.bench_function(format!("{name}, libtorch"), |bencher| {
                bencher.iter(|| {
                    let straight = plain();
                    let turned = transposed.then(|| straight.transpose(0, 1).contiguous());
                    black_box((straight, turned))
                });
            });
            group.bench_function(format!("{name}, own"), |bencher| {
                let own = || cast(&x, Format::E4M3, Factor::Tensor, transposed);
                bencher.iter(|| assert!(own().map(black_box).is_ok()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, products, around_products, norms, casts);
criterion_main!(benches);
