//! Against FP64, and the CUDA kernels against the CPU.

use bert4rs_tensor_core::{Device, Kind, Tensor};

use super::*;
use crate::testing::{assert_same_on_one_thread, distance, random};

/// Inputs of a norm: x, y, weight, bias.
type NormInputs = [Tensor; 4];

fn inputs(rows: i64, features: i64, kind: Kind) -> NormInputs {
    let [x, y] = [1.5, 0.5].map(|mean| random(&[rows, features], Kind::Float) * 2.0 + mean);
    let [weight, bias] = [1.0, 0.2].map(|mean| random(&[features], Kind::Float) * 0.3 + mean);
    [x, y, weight, bias].map(|x| x.to_kind(kind).set_requires_grad(true))
}

fn double(inputs: &NormInputs) -> NormInputs {
    inputs.each_ref().map(|x| x.detach().to_kind(Kind::Double).set_requires_grad(true))
}

const EPS: f64 = 1e-5;

/// The formula, step by step, in the dtype of `s`.
fn plain(norm_kind: NormKind, s: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let mean = |x: &Tensor| x.mean_dim([-1i64].as_slice(), true, s.kind());
    let centered = if norm_kind == NormKind::Layer { s - mean(s) } else { s.shallow_clone() };
    let z = &centered / (mean(&centered.square()) + EPS).sqrt();
    let scaled = z * weight;
    bias.map_or(scaled.shallow_clone(), |bias| &scaled + bias)
}

fn norm<'a>(norm_kind: NormKind, inputs: &'a NormInputs, biased: bool) -> NormArgs<'a> {
    NormArgs { norm_kind, weight: &inputs[2], bias: biased.then_some(&inputs[3]), eps: EPS }
}

#[track_caller]
fn assert_close(what: &str, found: &Tensor, expected: &Tensor, kind: Kind) {
    let tolerance = if kind == Kind::Float { 4e-6 } else { 2e-2 };
    assert_eq!(found.kind(), kind, "{what}");
    let expected = expected.to_kind(Kind::Double);
    let error = (found.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
    let greatest = expected.abs().max().double_value(&[]).max(0.5);
    assert!(error <= tolerance * greatest, "{what}: off by {error:.2e} of {greatest:.2e}");
}

/// A gradient of no particular pattern, of numbers that BF16 has.
fn gradient(shape: &[i64], phase: f64) -> Tensor {
    let count = shape.iter().product::<i64>();
    let numbers = Tensor::arange(count, (Kind::Double, Device::Cpu)) + phase;
    (numbers * 12.9898).sin().reshape(shape).to_kind(Kind::BFloat16).to_kind(Kind::Double)
}

/// A loss with this [`gradient`].
fn weighted(x: &Tensor, phase: f64) -> Tensor {
    (x * gradient(&x.size(), phase).to_kind(x.kind())).sum(Kind::Double)
}

/// The gradients of the inputs of these numbers.
fn gradients(loss: &Tensor, inputs: &NormInputs, used: &[usize]) -> Vec<Tensor> {
    let used: Vec<&Tensor> = used.iter().map(|&index| &inputs[index]).collect();
    Tensor::run_backward(&[loss], &used, true, false)
}

#[test]
fn values_and_gradients_equal_fp64() {
    // Rows and features that fill vectors and blocks, and that do not.
    for (rows, features) in [(1, 1), (3, 7), (4, 16), (37, 40), (70, 256), (130, 1025)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (norm_kind, biased) in
                [(NormKind::Layer, true), (NormKind::Layer, false), (NormKind::Rms, false)]
            {
                check_all(rows, features, kind, norm_kind, biased);
            }
        }
    }
}

fn check_all(rows: i64, features: i64, kind: Kind, norm_kind: NormKind, biased: bool) {
    let name = format!("{norm_kind:?} of {rows}x{features} {kind:?}");
    let inputs = inputs(rows, features, kind);
    let exact = double(&inputs);
    let own = norm(norm_kind, &inputs, biased);
    let bias = biased.then_some(&exact[3]);
    let last = if biased { vec![2, 3] } else { vec![2] };
    // What the kernel normalises is rounded; FP64 gets the rounded sum, with both histories.
    let rounded = (&inputs[0] + &inputs[1]).to_kind(Kind::Double).detach();
    let sum = &exact[0] + &exact[1];
    let sum = &sum + (rounded - sum.detach());
    let expected = plain(norm_kind, &sum, &exact[2], bias);
    let used: Vec<usize> = [0, 1].into_iter().chain(last.iter().copied()).collect();

    let [first, twin] = normalize_sum(&own, &inputs[0], &inputs[1]).unwrap();
    assert_close(&name, &first, &expected, kind);
    assert!(first.equal(&twin));
    let found = gradients(&(weighted(&first, 0.0) + weighted(&twin, 1.0)), &inputs, &used);
    // The kernel rounds the sum of both gradients.
    let size = expected.size();
    let both = (gradient(&size, 0.0) + gradient(&size, 1.0)).to_kind(kind).to_kind(Kind::Double);
    let wanted = gradients(&(&expected * both).sum(Kind::Double), &exact, &used);
    for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        assert_close(&format!("{name}, gradient {index}"), found, wanted, kind);
    }

    let [normed, total] = add_and_normalize(&own, &inputs[0], Some(&inputs[1])).unwrap();
    assert!(normed.equal(&first) && total.equal(&(&inputs[0] + &inputs[1])));
    let found = gradients(&(weighted(&normed, 0.0) + weighted(&total, 1.0)), &inputs, &used);
    let wanted = gradients(&(weighted(&expected, 0.0) + weighted(&sum, 1.0)), &exact, &used);
    for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        assert_close(&format!("{name}, gradient {index} with the sum"), found, wanted, kind);
    }

    let used: Vec<usize> = std::iter::once(0).chain(last).collect();
    let alone = normalize(&own, &inputs[0]).unwrap();
    let [again, same] = add_and_normalize(&own, &inputs[0], None).unwrap();
    assert!(again.equal(&alone) && same.equal(&inputs[0]));
    let expected = plain(norm_kind, &exact[0], &exact[2], bias);
    assert_close(&name, &alone, &expected, kind);
    let found = gradients(&weighted(&alone, 0.0), &inputs, &used);
    let wanted = gradients(&weighted(&expected, 0.0), &exact, &used);
    for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        assert_close(&format!("{name} alone, gradient {index}"), found, wanted, kind);
    }
}

#[test]
fn rows_that_are_not_finite_stay_by_themselves() {
    for norm_kind in [NormKind::Layer, NormKind::Rms] {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let inputs = inputs(6, 37, Kind::Float);
            let x = inputs[0].detach();
            let _ = x.get(2).narrow(0, 35, 1).fill_(bad);
            let own = norm(norm_kind, &inputs, true);
            let found = normalize(&own, &x).unwrap();
            let expected = plain(norm_kind, &x, &inputs[2], Some(&inputs[3]));
            assert!(found.isnan().equal(&expected.isnan()), "{norm_kind:?} {bad}");
            assert!(found.get(2).isnan().any().int64_value(&[]) == 1);
            assert!(found.isnan().any_dim(1, false).sum(Kind::Int64).int64_value(&[]) == 1);
        }
    }
}

#[test]
fn every_isa_agrees() {
    let inputs = inputs(11, 70, Kind::Float).map(|x| x.detach());
    let [x, y, weight, bias] = &inputs;
    let of = OutputGrads { normed: x * 0.5, twin: Some(y.copy()), sum: Some(y * 2.0) };
    let run = |isa: Isa| {
        let affine = (weight, Some(bias));
        let found = cpu::forward::<f32>(isa, NormKind::Layer, 1e-5, affine, x, Some(y)).unwrap();
        let (sum, statistics) = (found.sum.unwrap(), found.statistics);
        let back =
            cpu::backward::<f32>(isa, NormKind::Layer, weight, &sum, &statistics, &of).unwrap();
        [found.normed, sum, statistics, back.sum, back.weight, back.bias]
    };
    let expected = run(Isa::Portable).map(|x| x.to_kind(Kind::Double));
    for isa in Isa::available() {
        for (found, expected) in run(isa).iter().zip(&expected) {
            assert_close(&format!("{isa:?}"), found, expected, Kind::Float);
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let inputs = inputs(150, 70, Kind::BFloat16);
    let own = norm(NormKind::Layer, &inputs, true);
    let run = || {
        let [normed, sum] = add_and_normalize(&own, &inputs[0], Some(&inputs[1])).unwrap();
        let loss = weighted(&normed, 0.0) + weighted(&sum, 1.0);
        gradients(&loss, &inputs, &[0, 1, 2, 3])
    };
    assert_same_on_one_thread(run);
}

#[test]
fn other_shapes_are_refused() {
    let inputs = inputs(3, 8, Kind::Float);
    let other = Tensor::zeros([3, 7], (Kind::Float, Device::Cpu));
    let own = norm(NormKind::Layer, &inputs, true);
    assert!(normalize(&own, &other).unwrap_err().to_string().contains("weight"));
    let error = normalize_sum(&own, &inputs[0], &inputs[0].narrow(0, 0, 2)).unwrap_err();
    assert!(error.to_string().contains("second summand"), "{error}");
}

#[test]
fn emulated_norms_equal_the_cpu() {
    for (rows, features) in [(1, 5), (3, 7), (13, 40), (9, 256), (5, 776), (3, 3200), (3, 6400)] {
        for norm_kind in [NormKind::Layer, NormKind::Rms] {
            let [x, y, twin, sum_grad, grad] =
                [(); 5].map(|()| random(&[rows, features], Kind::BFloat16) + 0.5);
            let [weight, bias] = [(); 2].map(|()| random(&[features], Kind::BFloat16) + 1.0);
            let bias = (norm_kind == NormKind::Layer).then_some(bias);
            let (affine, summed) = ((&weight, bias.as_ref()), (features != 40).then_some(&y));
            let isa = Isa::fastest();
            let cpu = cpu::forward::<bf16>(isa, norm_kind, 1e-5, affine, &x, summed).unwrap();
            let gpu = cuda::forward(norm_kind, 1e-5, affine, &x, summed).unwrap();
            let what = format!("{norm_kind:?} {rows} {features}");
            assert!(distance(&gpu.normed, &cpu.normed) < 3e-3, "{what}");
            assert!(distance(&gpu.statistics, &cpu.statistics) < 1e-5, "{what}");
            let sum = cpu.sum.as_ref().unwrap_or(&x);
            assert!(gpu.sum.as_ref().is_none_or(|found| found.equal(sum)));
            let both = features != 256;
            let of = OutputGrads {
                normed: grad,
                twin: both.then_some(twin),
                sum: both.then_some(sum_grad),
            };
            let statistics = &cpu.statistics;
            let cpu = cpu::backward::<bf16>(isa, norm_kind, &weight, sum, statistics, &of);
            let gpu = cuda::backward(norm_kind, bias.is_some(), &weight, sum, statistics, &of);
            let (cpu, gpu) = (cpu.unwrap(), gpu.unwrap());
            assert!(distance(&gpu.sum, &cpu.sum) < 3e-3, "{what}");
            assert!(distance(&gpu.weight, &cpu.weight) < 3e-3, "{what}");
            if bias.is_some() {
                assert!(distance(&gpu.bias, &cpu.bias) < 3e-3, "{what}");
            }
        }
    }
}
