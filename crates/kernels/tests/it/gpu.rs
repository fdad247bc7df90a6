//! The kernels on a GPU against their CPU twins. Skipped, with the reason, where there is none.

use bert4rs_kernels::activation::{self, Activation};
use bert4rs_kernels::cross_entropy::{self, CrossEntropyOptions, OutputWeights};
use bert4rs_kernels::fp8::{self, Cast, Factor, Format};
use bert4rs_kernels::gemm::{self, OutputStructure, Rhs};
use bert4rs_kernels::weight::{Weight, split_tensor};
use bert4rs_kernels::{adamw, muon, sum_of_squares};
use bert4rs_tensor_core::policy::{Kernels, Policy};
use bert4rs_tensor_core::testing::{cuda_or_skip, skip};
use bert4rs_tensor_core::{Device, Kind, Tensor};

fn same_bytes(found: &Tensor, expected: &Tensor) -> bool {
    let bytes = |tensor: &Tensor| tensor.view_dtype(Kind::Uint8).to_device(Device::Cpu);
    bytes(found).equal(&bytes(expected))
}

fn assert_same(found: &Cast, expected: &Cast) {
    let pairs = [
        (Some(&found.straight), Some(&expected.straight)),
        (found.transposed.as_ref(), expected.transposed.as_ref()),
    ];
    for (found, expected) in pairs {
        let (Some(found), Some(expected)) = (found, expected) else {
            assert!(found.is_none() && expected.is_none());
            continue;
        };
        assert!(same_bytes(&found.values, &expected.values));
        assert!(same_bytes(&found.inverse, &expected.inverse));
    }
    assert!(same_bytes(&found.amax, &expected.amax));
    assert!(same_bytes(&found.overflows, &expected.overflows));
}

#[test]
fn fp8_casts_have_the_bits_of_the_cpu() {
    let Some(device) = cuda_or_skip() else { return };
    let every_bf16 = Tensor::arange(1 << 16, (Kind::Int, Device::Cpu))
        .to_kind(Kind::Int16)
        .view_dtype(Kind::BFloat16)
        .view([256, 256]);
    let random = |rows, cols| Tensor::randn([rows, cols], (Kind::Float, Device::Cpu)) * 100.0;
    let matrices = [every_bf16.shallow_clone(), every_bf16.to_kind(Kind::Float)]
        .into_iter()
        .chain([(1, 1), (3, 5), (64, 64), (130, 70), (1000, 784)].map(|(r, c)| random(r, c)));
    for x in matrices {
        for format in [Format::E4M3, Format::E5M2] {
            let given = Tensor::from_slice(&[3.25f32]);
            let given_there = given.to_device(device);
            for (here, there) in [
                (Factor::Tensor, Factor::Tensor),
                (Factor::Row, Factor::Row),
                (Factor::Given(&given), Factor::Given(&given_there)),
            ] {
                let expected = fp8::cast(&x, format, here, true).unwrap();
                let found = fp8::cast(&x.to_device(device), format, there, true).unwrap();
                assert_same(&found, &expected);
            }
        }
    }
}

#[test]
fn fp8_products_equal_their_emulation() {
    let Some(device) = cuda_or_skip() else { return };
    if let Some(reason) = fp8::unsupported_reason(device) {
        return skip(&reason.to_string());
    }
    let random = |rows, cols| Tensor::randn([rows, cols], (Kind::Float, Device::Cpu));
    let (x, w) = (random(96, 128).to_kind(Kind::BFloat16), random(64, 128).to_kind(Kind::BFloat16));
    for factor in [Factor::Tensor, Factor::Row] {
        let product = |device: Device| {
            let cast = |x: &Tensor| {
                fp8::cast(&x.to_device(device), Format::E4M3, factor, false).unwrap().straight
            };
            fp8::product(&cast(&x), &cast(&w), None, Kind::BFloat16, true).unwrap()
        };
        let (found, expected) = (product(device).to_device(Device::Cpu), product(Device::Cpu));
        let error = (&found - &expected).to_kind(Kind::Double).norm()
            / expected.to_kind(Kind::Double).norm();
        assert!(f64::try_from(error).unwrap() < 4e-3);
    }
}

/// The three forms of a weight, as owned tensors.
fn forms(exact: &Tensor) -> [Vec<Tensor>; 3] {
    let (high, low) = split_tensor(exact).expect("a dense tensor");
    [vec![exact.copy()], vec![exact.copy(), exact.to_kind(Kind::BFloat16)], vec![low, high]]
}

fn weight(tensors: &mut [Tensor]) -> Weight<'_> {
    match tensors {
        [weight] => Weight::Single(weight),
        [other, weight] => match other.kind() {
            Kind::Float => Weight::Master { master: other, weight },
            _ => Weight::Bf16Residual { weight, residual: other },
        },
        _ => unreachable!("a weight has one tensor or two"),
    }
}

fn to(device: Device, tensors: &[Tensor]) -> Vec<Tensor> {
    // A copy even where it is there already.
    tensors.iter().map(|tensor| tensor.to_device(device).copy()).collect()
}

fn random_of(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
}

#[test]
fn adamw_has_the_bits_of_the_cpu() {
    let Some(device) = cuda_or_skip() else { return };
    let scalars = adamw::AdamwKernelScalars {
        grad_scale: 0.5,
        one_minus_beta1: 0.1,
        beta2: 0.98,
        one_minus_beta2: 0.02,
        inverse_sqrt_correction2: 3.0,
        eps: 1e-6,
        decay_factor: 0.999,
        step_size: 1e-2,
    };
    // More tensors than one launch takes, of sizes that are whole and not; and odd beginnings.
    let sizes = [1, 7, 8, 100, 8192, 8193, 70_000];
    let mut sets = Vec::new();
    for (index, size) in sizes.iter().cycle().take(70).enumerate() {
        let grad_kind = if index % 2 == 0 { Kind::Float } else { Kind::BFloat16 };
        let grad = random_of(&[*size], grad_kind);
        let moments = [random_of(&[*size], Kind::Float), random_of(&[*size], Kind::Float).abs()];
        let exact = random_of(&[*size], Kind::Float);
        sets.push((grad, moments, forms(&exact)[index % 3].iter().map(Tensor::copy).collect()));
    }
    let run = |device: Device| -> Vec<Tensor> {
        let mut made: Vec<Vec<Tensor>> = sets
            .iter()
            .map(|(grad, moments, weight): &(Tensor, [Tensor; 2], Vec<Tensor>)| {
                let all = [grad, &moments[0], &moments[1]].into_iter().chain(weight);
                to(device, &all.map(Tensor::shallow_clone).collect::<Vec<_>>())
            })
            .collect();
        let numbers = Tensor::from_slice(&scalars.to_array()).to_device(device);
        let updates = made.iter_mut().enumerate().map(|(index, tensors)| {
            let [grad, moment1, moment2, rest @ ..] = &mut tensors[..] else { unreachable!() };
            let (numbers, cautious, weight) = (&numbers, index % 4 == 0, weight(rest));
            adamw::ParamUpdate { numbers, cautious, grad, moment1, moment2, weight }
        });
        adamw::step(updates.collect()).unwrap();
        made.into_iter().flatten().map(|tensor| tensor.to_device(Device::Cpu)).collect()
    };
    for (index, (found, expected)) in run(device).iter().zip(&run(Device::Cpu)).enumerate() {
        assert!(found.equal(expected), "tensor {index}");
    }
}

#[test]
fn muon_s_passes_equal_those_of_the_cpu() {
    let Some(device) = cuda_or_skip() else { return };
    let close = |found: &Tensor, expected: &Tensor, what: &str| {
        let [found, expected] =
            [found, expected].map(|x| x.to_device(Device::Cpu).to_kind(Kind::Double));
        let error = (found - &expected).norm() / expected.norm();
        let error = f64::try_from(error).unwrap();
        assert!(error < 1e-3, "{what}: {error}");
    };
    let scalars = muon::MuonKernelScalars {
        one_minus_momentum: 0.05,
        grad_scale: 0.5,
        lr: 0.2,
        decay_factor: 0.9,
    };
    let numbers = Tensor::from_slice(&scalars.to_array());
    for (rows, cols) in [(1, 1), (5, 7), (64, 64), (72, 136), (136, 72), (768, 3072), (3072, 768)] {
        for (grad_kind, kind) in [(Kind::Float, Kind::Float), (Kind::BFloat16, Kind::BFloat16)] {
            let grad = random_of(&[rows, cols], grad_kind);
            let momentum = random_of(&[rows, cols], Kind::Float);
            let (low, high) = (rows.min(cols), rows.max(cols));
            let run = |device: Device| {
                let (grad, mut m) = (grad.to_device(device), momentum.to_device(device).copy());
                let mut x = Tensor::zeros([low, high], (kind, device));
                let numbers = &numbers.to_device(device);
                let args = muon::MomentumArgs { numbers, nesterov: true, norm_factor: 1.01 };
                muon::momentum_update(&args, &grad, &mut m, &mut x).unwrap();
                let sums = [false, true].map(|cols| muon::sums_of_squares(&x, cols).unwrap());
                (m, x, sums)
            };
            let (found, expected) = (run(device), run(Device::Cpu));
            close(&found.0, &expected.0, "momentum");
            close(&found.1, &expected.1, "update");
            for (found, expected) in found.2.iter().zip(&expected.2) {
                close(found, expected, "sums");
            }
            let (row, col) = (random_of(&[rows], Kind::Float), random_of(&[cols], Kind::Float));
            for (form, cautious) in [(0, false), (1, true), (2, true)] {
                let exact = random_of(&[rows, cols], Kind::Float);
                let run = |device: Device| {
                    let mut tensors = to(device, &forms(&exact)[form]);
                    let o = expected.1.to_device(device);
                    let [row, col, numbers] = [&row, &col, &numbers].map(|x| x.to_device(device));
                    let (row, col, numbers) = (Some(&row), Some(&col), &numbers);
                    let numbers = muon::UpdateArgs { numbers, factor: 0.5, row, col, cautious };
                    muon::apply_update(&numbers, &o, weight(&mut tensors)).unwrap();
                    tensors
                };
                for (found, expected) in run(device).iter().zip(&run(Device::Cpu)) {
                    assert!(found.to_device(Device::Cpu).equal(expected), "form {form}");
                }
            }
        }
    }
}

#[test]
fn symmetric_products_equal_fp64() {
    let Some(device) = cuda_or_skip() else { return };
    let double = |x: &Tensor| x.to_device(Device::Cpu).to_kind(Kind::Double);
    // Some by our kernel, some by libtorch; whole tiles and not.
    for (stack, side, inner) in [(1, 8, 16), (30, 768, 768), (3, 2048, 512), (60, 392, 1000)] {
        let x = random_of(&[stack, side, inner], Kind::BFloat16).to_device(device);
        let gram =
            gemm::product(0.5, &x, Rhs::Transposed(&x), None, OutputStructure::Symmetric).unwrap();
        let expected = double(&x).bmm(&double(&x).transpose(1, 2)) * 0.5;
        let off = |found: &Tensor, expected: &Tensor| {
            f64::try_from((double(found) - expected).norm() / expected.norm()).unwrap()
        };
        assert!(off(&gram, &expected) < 3e-3);
        assert!(gram.equal(&gram.transpose(1, 2)), "not symmetric");
        // b A + c A², as an iteration of the polar factor does.
        let a = (&gram / f64::from(inner as i32)).contiguous();
        let plus = Some((-2.0, &a));
        let found =
            gemm::product(1.5, &a, Rhs::Plain(&a), plus, OutputStructure::Symmetric).unwrap();
        let expected = double(&a).bmm(&double(&a)) * 1.5 - double(&a) * 2.0;
        assert!(off(&found, &expected) < 3e-3);
    }
}

/// ‖found - expected‖ / ‖expected‖, with `expected` in FP64.
fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let found = found.to_device(Device::Cpu).to_kind(Kind::Double);
    f64::try_from((found - expected).norm() / expected.norm()).expect("one number")
}

#[test]
fn activations_equal_fp64() {
    let Some(device) = cuda_or_skip() else { return };
    for (kind, bound) in [(Kind::Float, 1e-5), (Kind::BFloat16, 4e-3)] {
        for count in [1, 7, 8, 4096, 70_001] {
            let inputs = [(); 2].map(|()| random_of(&[count], kind) * 3.0);
            for activation in Activation::ALL {
                let own = |x: &[Tensor]| activation::activate(activation, &x[0], x.get(1)).unwrap();
                let plain = |x: &[Tensor]| activation.forward_gated(&x[0], x.get(1));
                let what = format!("{activation:?} {kind:?} {count}");
                for used in [1, 2] {
                    assert_like_fp64(device, &what, &inputs[..used], own, plain, bound);
                }
            }
        }
    }
}

#[test]
fn cross_entropy_equals_fp64() {
    let Some(device) = cuda_or_skip() else { return };
    let policy = Policy::new(Kernels::Fused, true);
    let plain = CrossEntropyOptions { ignored: -100, ..CrossEntropyOptions::default() };
    let full =
        CrossEntropyOptions { label_smoothing: 0.1, z_loss: 1e-3, soft_cap: Some(5.0), ..plain };
    // An odd number of classes begins rows at every even place.
    for (rows, classes) in [(1, 2), (5, 31), (40, 30_522), (9, 50_257)] {
        for (kind, bound) in [(Kind::Float, 1e-4), (Kind::BFloat16, 1e-2)] {
            for options in [plain, full] {
                let hidden = random_of(&[rows, 16], kind);
                let weight = random_of(&[classes, 16], kind) * 0.5;
                let labels = Tensor::randint(classes, [rows], (Kind::Int64, Device::Cpu));
                let _ = labels.narrow(0, 0, rows / 3).fill_(-100);
                let run = |device: Device, kind: Kind| {
                    let leaf = |t: &Tensor| t.to_device(device).to_kind(kind).detach().copy();
                    let inputs = [&hidden, &weight].map(|t| leaf(t).set_requires_grad(true));
                    let output = OutputWeights { weight: &inputs[1], bias: None };
                    let labels = labels.to_device(device);
                    let loss = cross_entropy::linear_cross_entropy(
                        &inputs[0], output, &labels, None, &options, &policy,
                    )
                    .unwrap();
                    let grads = Tensor::run_backward(&[&loss], &inputs, false, false);
                    (loss, grads)
                };
                let (loss, grads) = run(device, kind);
                let (exact, expected) = run(Device::Cpu, Kind::Double);
                assert!(distance(&loss, &exact.detach()) < bound, "{rows} {classes} {kind:?}");
                for (found, expected) in grads.iter().zip(&expected) {
                    assert!(distance(found, expected) < bound, "{rows} {classes} {kind:?}");
                }
            }
        }
    }
}

/// The values and gradients on `device`, a GPU, by our kernels, against FP64 by libtorch's
/// operations on the CPU. `own` and `plain` get the same inputs, which require gradients.
fn assert_like_fp64(
    device: Device,
    what: &str,
    inputs: &[Tensor],
    own: impl Fn(&[Tensor]) -> Tensor,
    plain: impl Fn(&[Tensor]) -> Tensor,
    bound: f64,
) {
    let leaf = |x: &Tensor, device, kind| {
        x.to_device(device).to_kind(kind).detach().copy().set_requires_grad(true)
    };
    let there: Vec<Tensor> = inputs.iter().map(|x| leaf(x, device, x.kind())).collect();
    let exact: Vec<Tensor> = inputs.iter().map(|x| leaf(x, Device::Cpu, Kind::Double)).collect();
    let (y, expected) = (own(&there), plain(&exact));
    assert!(distance(&y.detach(), &expected.detach()) < bound, "{what}");
    let dy = random_of(&y.size(), y.kind());
    let loss = (y * dy.to_device(device)).sum(Kind::Float);
    let found = Tensor::run_backward(&[loss], &there, false, false);
    let loss = (expected * dy.to_kind(Kind::Double)).sum(Kind::Double);
    let expected = Tensor::run_backward(&[loss], &exact, false, false);
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(distance(found, expected) < bound, "{what}, gradient {index}");
    }
}

#[test]
fn norms_equal_fp64() {
    let Some(device) = cuda_or_skip() else { return };
    use bert4rs_kernels::norm::{NormArgs, NormKind, add_and_normalize};
    for (rows, features) in [(1, 8), (37, 50), (1000, 768), (70, 4096)] {
        for (kind, bound) in [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)] {
            let of = |shape: &[i64]| random_of(shape, kind);
            let [x, y] = [(); 2].map(|()| of(&[rows, features]));
            let inputs = [x, y, of(&[features]) + 1.0, of(&[features])];
            let own = |inputs: &[Tensor]| {
                let [x, y, weight, bias] = inputs else { unreachable!() };
                let norm =
                    NormArgs { norm_kind: NormKind::Layer, weight, bias: Some(bias), eps: 1e-5 };
                let [normed, sum] = add_and_normalize(&norm, x, Some(y)).unwrap();
                normed + sum
            };
            let plain = |inputs: &[Tensor]| {
                let [x, y, weight, bias] = inputs else { unreachable!() };
                let sum = x + y;
                sum.layer_norm([features], Some(weight), Some(bias), 1e-5, false) + sum
            };
            assert_like_fp64(
                device,
                &format!("{rows} {features} {kind:?}"),
                &inputs,
                own,
                plain,
                bound,
            );
        }
    }
}

#[test]
fn rotated_heads_equal_fp64() {
    let Some(device) = cuda_or_skip() else { return };
    use bert4rs_kernels::rotary::{Angles, HeadNorm, rotate};
    for [b, t, h, e] in [[1, 1, 1, 16], [2, 37, 3, 64], [4, 512, 12, 128]] {
        for (kind, bound) in [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)] {
            let of = |shape: &[i64]| random_of(shape, kind);
            let [cos, sin] = [(); 2].map(|()| of(&[1, t, 1, e]));
            let inputs = [of(&[b, t, h, e]), of(&[e]) + 1.0];
            let own = |inputs: &[Tensor]| {
                let norm = HeadNorm { weight: &inputs[1], eps: 1e-6 };
                let [cos, sin] = [&cos, &sin].map(|x| x.to_device(inputs[0].device()));
                rotate(&inputs[0], &Angles { cos: &cos, sin: &sin }, Some(&norm)).unwrap()
            };
            let plain = |inputs: &[Tensor]| {
                let normed = inputs[0].rms_norm([e], Some(&inputs[1]), 1e-6);
                let halves = normed.chunk(2, -1);
                let swapped = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
                normed * cos.to_kind(Kind::Double) + swapped * sin.to_kind(Kind::Double)
            };
            assert_like_fp64(
                device,
                &format!("{b} {t} {h} {e} {kind:?}"),
                &inputs,
                own,
                plain,
                bound,
            );
        }
    }
}

#[test]
fn lookups_equal_fp64() {
    let Some(device) = cuda_or_skip() else { return };
    use bert4rs_kernels::embedding::lookup;
    for (entries, count, features) in [(3, 1, 1), (3, 2000, 40), (30_000, 16_384, 768)] {
        for (kind, bound) in [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)] {
            let ids = Tensor::randint(entries, [count], (Kind::Int64, Device::Cpu));
            // One id far more often than the others, as that of masked tokens is.
            let ids = ids.where_scalarother(&random_of(&[count], Kind::Float).gt(-1.0), 2);
            let inputs = [random_of(&[entries, features], kind)];
            let own = |inputs: &[Tensor]| {
                lookup(&inputs[0], &ids.to_device(inputs[0].device()), None).unwrap()
            };
            let plain = |inputs: &[Tensor]| inputs[0].index_select(0, &ids);
            assert_like_fp64(device, &format!("{entries} {kind:?}"), &inputs, own, plain, bound);
        }
    }
}

#[test]
fn sums_of_squares_equal_those_of_the_cpu() {
    let Some(device) = cuda_or_skip() else { return };
    let tensors: Vec<Tensor> =
        (0..200).map(|index| random_of(&[1 + 997 * index], Kind::BFloat16)).collect();
    let there = to(device, &tensors);
    let found = sum_of_squares::sums_of_squares(&there, device).unwrap().to_device(Device::Cpu);
    for (found, tensor) in Vec::<f64>::try_from(found).unwrap().iter().zip(&tensors) {
        let expected = sum_of_squares::sum_of_squares(tensor).unwrap();
        assert!((found - expected).abs() <= 1e-5 * expected, "{found} for {expected}");
    }
}
