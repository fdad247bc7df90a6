//! The kernels' sources, and all of what launches them, run on the CPU against their twins.

use bert4rs_tensor_core::{Device, Kind, Tensor};

use super::*;
use crate::activation::Activation;
use crate::fp8::{Factor, Format};
use crate::weight::{Weight, split_tensor};

fn random(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
}

/// ‖found - expected‖ / ‖expected‖
fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let [found, expected] = [found, expected].map(|x| x.to_kind(Kind::Double));
    f64::try_from((found - &expected).norm() / expected.norm()).unwrap()
}

fn same_bits(found: &Tensor, expected: &Tensor) -> bool {
    found.view_dtype(Kind::Uint8).equal(&expected.view_dtype(Kind::Uint8))
}

#[test]
fn fp8_casts_have_the_bits_of_their_twin() {
    let given = Tensor::from_slice(&[3.25f32]);
    for (rows, cols) in [(1, 1), (3, 5), (64, 64), (70, 130)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let x = random(&[rows, cols], kind) * 100.0;
            for format in [Format::E4M3, Format::E5M2] {
                for factor in [Factor::Tensor, Factor::Row, Factor::Given(&given)] {
                    let expected = crate::fp8::cast(&x, format, factor, true).unwrap();
                    let found = fp8::cast(&x, format, factor, true).unwrap();
                    let both_copies = [found.transposed.unwrap(), expected.transposed.unwrap()];
                    for [found, expected] in [both_copies, [found.straight, expected.straight]] {
                        assert!(same_bits(&found.values, &expected.values), "{rows} {cols}");
                        assert!(same_bits(&found.inverse, &expected.inverse));
                    }
                    assert!(same_bits(&found.amax, &expected.amax));
                    assert!(same_bits(&found.overflows, &expected.overflows));
                }
            }
        }
    }
}

fn forms(exact: &Tensor) -> [Vec<Tensor>; 3] {
    let (high, low) = split_tensor(exact).unwrap();
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

#[test]
fn adamw_has_the_bits_of_its_twin() {
    let scalars = crate::adamw::AdamwKernelScalars {
        grad_scale: 0.5,
        one_minus_beta1: 0.1,
        beta2: 0.98,
        one_minus_beta2: 0.02,
        inverse_sqrt_correction2: 3.0,
        eps: 1e-6,
        decay_factor: 0.999,
        step_size: 1e-2,
    };
    let numbers = &Tensor::from_slice(&scalars.to_array());
    // More tensors than a launch takes.
    let sets: Vec<Vec<Tensor>> = (0..40)
        .map(|index| {
            let count = [1, 7, 8, 8193][index % 4];
            let kind = [Kind::Float, Kind::BFloat16][index % 2];
            let moment = || random(&[count], Kind::Float).abs();
            let mut set = vec![random(&[count], kind), moment(), moment()];
            set.extend(forms(&random(&[count], Kind::Float))[index % 3].iter().map(Tensor::copy));
            set
        })
        .collect();
    let run = |emulated: bool| {
        let mut sets: Vec<Vec<Tensor>> =
            sets.iter().map(|set| set.iter().map(Tensor::copy).collect()).collect();
        let updates = sets.iter_mut().map(|set| {
            let [grad, moment1, moment2, rest @ ..] = &mut set[..] else { unreachable!() };
            crate::adamw::ParamUpdate {
                numbers,
                cautious: true,
                grad,
                moment1,
                moment2,
                weight: weight(rest),
            }
        });
        let updates: Vec<_> = updates.collect();
        match emulated {
            true => adamw::step(&updates, Device::Cpu).unwrap(),
            false => crate::adamw::step(updates).unwrap(),
        }
        sets.into_iter().flatten().collect::<Vec<_>>()
    };
    assert!(run(true).iter().zip(&run(false)).all(|(found, expected)| found.equal(expected)));
}

fn muon_scalars() -> [f32; 4] {
    let (one_minus_momentum, grad_scale, lr, decay_factor) = (0.05, 0.5, 0.2, 0.9);
    crate::muon::MuonKernelScalars { one_minus_momentum, grad_scale, lr, decay_factor }.to_array()
}

#[test]
fn muon_s_passes_equal_their_twins() {
    let numbers = &Tensor::from_slice(&muon_scalars());
    let args = crate::muon::MomentumArgs { numbers, nesterov: true, norm_factor: 1.01 };
    for (rows, cols) in [(1, 1), (5, 7), (72, 136), (136, 72), (130, 70)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (grad, m) = (random(&[rows, cols], kind), random(&[rows, cols], Kind::Float));
            let empty = || Tensor::zeros([rows.min(cols), rows.max(cols)], (kind, Device::Cpu));
            let (mut m1, mut x1, mut m2, mut x2) = (m.copy(), empty(), m.copy(), empty());
            crate::muon::momentum_update(&args, &grad, &mut m1, &mut x1).unwrap();
            let sides = (rows as usize, cols as usize);
            muon::momentum_update(&args, &grad, &mut m2, &mut x2, sides).unwrap();
            assert!(m1.equal(&m2) && distance(&x2, &x1) < 3e-3);
            for of_columns in [false, true] {
                let sides = (x1.size()[0] as usize, x1.size()[1] as usize);
                let found = muon::sums_of_squares(&x1, of_columns, sides).unwrap();
                let expected = crate::muon::sums_of_squares(&x1, of_columns).unwrap();
                assert!(distance(&found, &expected) < 1e-5);
            }
            let row = random(&[rows], Kind::Float);
            let col = random(&[cols], Kind::Float);
            let (row, col) = [(Some(&row), None), (Some(&row), Some(&col))][usize::from(rows > 5)];
            let numbers =
                crate::muon::UpdateArgs { numbers, factor: 0.5, row, col, cautious: true };
            for mut found in forms(&random(&[rows, cols], Kind::Float)) {
                let mut expected: Vec<Tensor> = found.iter().map(Tensor::copy).collect();
                crate::muon::apply_update(&numbers, &x1, weight(&mut expected)).unwrap();
                muon::apply_update(&numbers, &x1, &weight(&mut found), sides).unwrap();
                assert!(found.iter().zip(&expected).all(|(a, b)| a.equal(b)), "{rows} {cols}");
            }
        }
    }
}

#[test]
fn symmetric_products_equal_fp64() {
    for (stack, side, inner) in [(1, 8, 16), (2, 136, 40)] {
        let x = random(&[stack, side, inner], Kind::BFloat16);
        let mut gram = Tensor::zeros([stack, side, side], (Kind::BFloat16, Device::Cpu));
        let rhs = crate::gemm::Rhs::Transposed(&x);
        gemm::symmetric(&mut gram, 0.5, &x, rhs, None).unwrap();
        let double = |x: &Tensor| x.to_kind(Kind::Double);
        assert!(distance(&gram, &(double(&x).bmm(&double(&x).transpose(1, 2)) * 0.5)) < 3e-3);
        assert!(gram.equal(&gram.transpose(1, 2)));
        let mut found = gram.zeros_like();
        let rhs = crate::gemm::Rhs::Plain(&gram);
        gemm::symmetric(&mut found, 1.5, &gram, rhs, Some((-2.0, &gram))).unwrap();
        let expected = double(&gram).bmm(&double(&gram)) * 1.5 - double(&gram) * 2.0;
        assert!(distance(&found, &expected) < 3e-3);
    }
}

#[test]
fn activations_equal_their_twins() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let inputs = [random(&[3001], kind) * 3.0, random(&[3001], kind)];
        let dy = random(&[3001], kind);
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
            for used in [1, 2] {
                let leaves: Vec<Tensor> =
                    inputs[..used].iter().map(|x| x.copy().set_requires_grad(true)).collect();
                let expected =
                    crate::activation::activate(activation, &leaves[0], leaves.get(1)).unwrap();
                let y = activation::forward(activation, &inputs[0], inputs[..used].get(1)).unwrap();
                assert!(distance(&y, &expected.detach()) < 4e-3);
                let loss = (expected * &dy).sum(Kind::Float);
                let expected = Tensor::run_backward(&[loss], &leaves, false, false);
                let (dx, du) = activation::backward(activation, &inputs[..used], &dy).unwrap();
                for (found, expected) in [Some(dx), du].iter().flatten().zip(&expected) {
                    assert!(distance(found, expected) < 6e-3, "{activation:?} {kind:?}");
                }
            }
        }
    }
}

#[test]
fn the_sweep_of_cross_entropy_equals_fp64() {
    use crate::cross_entropy::CrossEntropyOptions;
    let plain = CrossEntropyOptions { ignored: -100, ..CrossEntropyOptions::default() };
    let full =
        CrossEntropyOptions { label_smoothing: 0.1, z_loss: 1e-3, soft_cap: Some(5.0), ..plain };
    for (rows, classes) in [(1, 2), (5, 31), (3, 5025)] {
        for options in [plain, full] {
            // The same each time: where a class is all but certain, its loss is the difference of
            // nearly equal numbers, and random ones sometimes are so.
            let index = Tensor::arange(rows * classes, (Kind::Double, Device::Cpu));
            let logits = ((index * 12.9898).sin() * 3.0).view([rows, classes]).to_kind(Kind::Float);
            let labels = Tensor::arange(rows, (Kind::Int64, Device::Cpu)).remainder(classes);
            let _ = labels.narrow(0, 0, rows / 3).fill_(-100);
            let count = labels.ne(-100).sum(Kind::Int64);
            let mut expected = logits.to_kind(Kind::Double);
            let sweep = crate::cross_entropy::softmax_cross_entropy_in_place;
            let exact = sweep(&mut expected, &labels, &count, &options, true).unwrap();
            let mut found = logits.copy();
            let loss = cross_entropy::softmax_cross_entropy_in_place(
                &mut found, &labels, &count, &options, true,
            )
            .unwrap();
            assert!(distance(&loss, &exact) < 1e-5 && distance(&found, &expected) < 1e-4);
        }
    }
}

#[test]
fn sums_of_columns_equal_libtorch_s() {
    for (rows, columns) in [(1, 1), (7, 33), (100, 64)] {
        let parts = random(&[rows, columns], Kind::Float);
        for kind in [Kind::Float, Kind::BFloat16] {
            let found = columns::sum(&parts, kind).unwrap();
            let expected = parts.sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
            assert!(found.kind() == kind && distance(&found, &expected) < 4e-3);
        }
    }
}

#[test]
fn norms_equal_their_twins() {
    use crate::isa::Isa;
    use crate::norm::{NormKind, backward, forward};
    for (rows, features) in [(1, 5), (3, 7), (13, 40), (9, 256), (5, 776), (3, 3200), (3, 6400)] {
        for norm_kind in [NormKind::Layer, NormKind::Rms] {
            let [x, y, twin, of_sum, grad] =
                [(); 5].map(|()| random(&[rows, features], Kind::BFloat16) + 0.5);
            let [weight, bias] = [(); 2].map(|()| random(&[features], Kind::BFloat16) + 1.0);
            let bias = (norm_kind == NormKind::Layer).then_some(bias);
            let (affine, summed) = ((&weight, bias.as_ref()), (features != 40).then_some(&y));
            let isa = Isa::fastest();
            let cpu =
                forward::forward::<half::bf16>(isa, norm_kind, 1e-5, affine, &x, summed).unwrap();
            let gpu = norm::forward(norm_kind, 1e-5, affine, &x, summed).unwrap();
            let what = format!("{norm_kind:?} {rows} {features}");
            assert!(distance(&gpu.normed, &cpu.normed) < 3e-3, "{what}");
            assert!(distance(&gpu.statistics, &cpu.statistics) < 1e-5, "{what}");
            let sum = cpu.sum.as_ref().unwrap_or(&x);
            assert!(gpu.sum.as_ref().is_none_or(|found| found.equal(sum)));
            let both = features != 256;
            let of = backward::OutputGrads {
                normed: grad,
                twin: both.then_some(twin),
                sum: both.then_some(of_sum),
            };
            let statistics = &cpu.statistics;
            let cpu =
                backward::backward::<half::bf16>(isa, norm_kind, &weight, sum, statistics, &of);
            let gpu = norm::backward(norm_kind, bias.is_some(), &weight, sum, statistics, &of);
            let (cpu, gpu) = (cpu.unwrap(), gpu.unwrap());
            assert!(distance(&gpu.sum, &cpu.sum) < 3e-3, "{what}");
            assert!(distance(&gpu.weight, &cpu.weight) < 3e-3, "{what}");
            if bias.is_some() {
                assert!(distance(&gpu.bias, &cpu.bias) < 3e-3, "{what}");
            }
        }
    }
}

#[test]
fn rotated_heads_equal_their_twins() {
    use crate::isa::Isa;
    use crate::rotary::pass;
    for [b, t, h, e] in [[1, 1, 1, 16], [2, 3, 2, 48], [2, 37, 3, 64], [1, 5, 2, 512]] {
        for (rows, kind) in [(t, Kind::Float), (b * t, Kind::BFloat16)] {
            let isa = Isa::fastest();
            // Heads within wider rows, at boundaries and not.
            let wide = random(&[b, t, h * e + 24], kind);
            let x = wide.narrow(2, if t == 3 { 3 } else { 8 }, h * e).unflatten(2, [h, e]);
            let [cos, sin] = [(); 2].map(|()| random(&[rows, e], kind));
            let rest = [cos, sin, random(&[e], kind), x.shallow_clone()];
            let grad = random(&[b, t, h, e], kind);
            for eps in [None, Some(1e-6)] {
                let (y, back) = match kind {
                    Kind::Float => (
                        pass::forward::<f32>(isa, &x, &rest, eps),
                        pass::backward::<f32>(isa, &grad, &rest, eps),
                    ),
                    _ => (
                        pass::forward::<half::bf16>(isa, &x, &rest, eps),
                        pass::backward::<half::bf16>(isa, &grad, &rest, eps),
                    ),
                };
                let found = rotary::forward(&x, &rest, eps).unwrap();
                assert!(distance(&found, &y.unwrap()) < 3e-3, "{b} {t} {h} {e} {kind:?}");
                let (of_x, of_weight) = rotary::backward(&grad, &rest, eps).unwrap();
                let expected = back.unwrap();
                assert!(distance(&of_x, &expected.0) < 3e-3, "{b} {t} {h} {e} {kind:?}");
                let pair = of_weight.zip(expected.1);
                assert_eq!(pair.is_some(), eps.is_some());
                assert!(pair.is_none_or(|(found, expected)| distance(&found, &expected) < 3e-3));
            }
        }
    }
    assert!(!rotary::supports(24) && !rotary::supports(528) && rotary::supports(128));
}

#[test]
fn gradients_of_lookups_equal_fp64() {
    for (entries, count, features) in [(3, 1, 1), (3, 200, 40), (50, 300, 136), (900, 97, 7)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            for padding in [None, Some(1)] {
                // Runs that end in a chunk, go on into the next, and over several.
                let ids = Tensor::randint(entries, [count], (Kind::Int64, Device::Cpu));
                let grad = random(&[count, features], kind);
                let found = embedding::backward(&grad, &ids, entries, padding).unwrap();
                let expected = Tensor::zeros([entries, features], (Kind::Double, Device::Cpu))
                    .index_add(0, &ids, &grad.to_kind(Kind::Double));
                if let Some(padding) = padding {
                    let _ = expected.get(padding).zero_();
                }
                let error = (found.to_kind(Kind::Double) - &expected).norm().double_value(&[]);
                let most = 3e-3 * expected.norm().double_value(&[]);
                assert!(error <= most, "{entries} {count} {features}");
            }
        }
    }
}

#[test]
fn sums_of_squares_equal_their_twin() {
    // More tensors than a launch takes, empty ones and none among them.
    let tensors: Vec<Tensor> = (0..150)
        .map(|index| match index % 5 {
            4 => Tensor::new(),
            form => {
                let count = [1, 0, 8193, 20_000][form];
                random(&[count], [Kind::Float, Kind::BFloat16][index % 2])
            }
        })
        .collect();
    let sums = Vec::<f64>::try_from(sum_of_squares::sums(&tensors, Device::Cpu).unwrap()).unwrap();
    for (tensor, found) in tensors.iter().zip(sums) {
        let defined = tensor.defined();
        let expected =
            if defined { crate::sum_of_squares::sum_of_squares(tensor).unwrap() } else { 0.0 };
        assert!((found - expected).abs() <= 1e-5 * expected, "{found} for {expected}");
    }
    let huge = [Tensor::from_slice(&[1.0f32, f32::INFINITY])];
    assert!(!sum_of_squares::sums(&huge, Device::Cpu).unwrap().double_value(&[0]).is_finite());
}
