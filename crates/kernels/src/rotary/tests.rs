//! Against FP64, and the CUDA kernels against the CPU.

use super::*;
use crate::testing::{assert_same_on_one_thread, distance, random};

const EPS: f64 = 1e-6;

struct RotaryInputs {
    x: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
}

/// Heads within wider rows, as where one map gives queries, keys and values.
fn inputs([b, t, h, e]: [i64; 4], rows: i64, kind: Kind) -> RotaryInputs {
    let wide = random(&[b, t, h * e + 6], Kind::Float).to_kind(kind);
    let x = wide.narrow(2, 3, h * e).unflatten(2, [h, e]).set_requires_grad(true);
    let weight = (random(&[e], Kind::Float) * 0.3 + 1.0).to_kind(kind).set_requires_grad(true);
    let angles = random(&[rows, e], Kind::Float) * 2.0;
    let shape = [rows / t, t, 1, e];
    let [cos, sin] = [angles.cos() * 1.2, angles.sin() * 1.2];
    let [cos, sin] = [cos, sin].map(|table| table.to_kind(kind).reshape(shape));
    RotaryInputs { x, weight, cos, sin }
}

/// The formula, step by step.
fn plain(x: &Tensor, cos: &Tensor, sin: &Tensor, weight: Option<&Tensor>) -> Tensor {
    let normed = match weight {
        None => x.shallow_clone(),
        Some(weight) => {
            let mean = x.square().mean_dim([-1i64].as_slice(), true, x.kind());
            x / (mean + EPS).sqrt() * weight
        }
    };
    let halves = normed.chunk(2, -1);
    let swapped = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
    normed * cos + swapped * sin
}

#[track_caller]
fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    let tolerance = if found.kind() == Kind::Float { 2e-6 } else { 1e-2 };
    assert_eq!(found.size(), expected.size(), "{what}");
    let error = (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
    let greatest = expected.abs().max().double_value(&[]).max(0.5);
    assert!(error <= tolerance * greatest, "{what}: off by {error:.2e} of {greatest:.2e}");
}

#[test]
fn values_and_gradients_equal_fp64() {
    // Halves of a head that fill vectors, and that do not; positions by place, and by row too.
    let shapes = [[1, 1, 1, 2], [2, 3, 2, 6], [2, 19, 3, 32], [3, 37, 2, 64], [2, 150, 4, 70]];
    for shape in shapes {
        let [b, t, ..] = shape;
        for (rows, kind) in [(t, Kind::Float), (b * t, Kind::Float), (b * t, Kind::BFloat16)] {
            let inputs = inputs(shape, rows, kind);
            for normed in [false, true] {
                check_one(&format!("{shape:?} {rows} {kind:?} {normed}"), &inputs, normed);
            }
        }
    }
}

fn check_one(name: &str, inputs: &RotaryInputs, normed: bool) {
    let RotaryInputs { x, weight, cos, sin } = inputs;
    let norm = normed.then_some(HeadNorm { weight, eps: EPS });
    let found = rotate(x, &Angles { cos, sin }, norm.as_ref()).unwrap();
    let double = |x: &Tensor| x.detach().to_kind(Kind::Double);
    let (x64, weight64) = (double(x), double(weight));
    let [x64, weight64] = [x64, weight64].map(|x| x.set_requires_grad(true));
    let expected = plain(&x64, &double(cos), &double(sin), normed.then_some(&weight64));
    assert_close(name, &found, &expected);
    // The gradient lies as attention leaves it: heads before time.
    let grad = random(&found.transpose(1, 2).size(), Kind::Float);
    let grad = grad.to_kind(found.kind()).transpose(1, 2);
    let loss = (&found * &grad).sum(Kind::Double);
    let exact = (&expected * double(&grad)).sum(Kind::Double);
    let (own, reference) = match normed {
        true => (vec![x, weight], vec![&x64, &weight64]),
        false => (vec![x], vec![&x64]),
    };
    let found = Tensor::run_backward(&[loss], &own, false, false);
    let wanted = Tensor::run_backward(&[exact], &reference, false, false);
    for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        assert_close(&format!("{name}, gradient {index}"), found, wanted);
    }
}

#[test]
fn every_isa_agrees() {
    let RotaryInputs { x, weight, cos, sin } = inputs([2, 19, 3, 70], 38, Kind::Float);
    let x = x.detach();
    let rest = [cos, sin, weight.detach()];
    let run = |isa: Isa| {
        let y = cpu::forward::<f32>(isa, &x, &rest, Some(1e-6)).unwrap();
        let [cos, sin, weight] = rest.each_ref().map(Tensor::shallow_clone);
        let saved = [cos, sin, weight, x.shallow_clone()];
        let (x_grad, weight_grad) = cpu::backward::<f32>(isa, &y, &saved, Some(1e-6)).unwrap();
        [y, x_grad, weight_grad.unwrap()]
    };
    let expected = run(Isa::Portable);
    for isa in Isa::available() {
        for (found, expected) in run(isa).iter().zip(&expected) {
            assert_close(&format!("{isa:?}"), found, &expected.to_kind(Kind::Double));
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let RotaryInputs { x, weight, cos, sin } = inputs([2, 200, 2, 64], 400, Kind::BFloat16);
    let norm = HeadNorm { weight: &weight, eps: EPS };
    let run = || {
        let y = rotate(&x, &Angles { cos: &cos, sin: &sin }, Some(&norm)).unwrap();
        let loss = y.square().sum(Kind::Float);
        Tensor::run_backward(&[loss], &[&x, &weight], false, false)
    };
    assert_same_on_one_thread(run);
}

#[test]
fn what_is_not_finite_stays_in_its_head() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let RotaryInputs { x, weight, cos, sin } = inputs([1, 5, 3, 36], 5, Kind::Float);
        let x = x.detach();
        let _ = x.narrow(1, 2, 1).narrow(2, 1, 1).narrow(3, 35, 1).fill_(bad);
        let norm = HeadNorm { weight: &weight.detach(), eps: EPS };
        for norm in [None, Some(&norm)] {
            let found = rotate(&x, &Angles { cos: &cos, sin: &sin }, norm).unwrap();
            let expected = plain(&x, &cos, &sin, norm.map(|norm| norm.weight));
            assert!(found.isnan().equal(&expected.isnan()), "{bad}");
            let heads = found.isfinite().all_dim(3, false).logical_not();
            assert_eq!(heads.sum(Kind::Int64).int64_value(&[]), 1, "{bad}");
        }
    }
}

#[test]
fn other_shapes_are_refused() {
    let RotaryInputs { x, weight, cos, sin } = inputs([2, 3, 2, 6], 3, Kind::Float);
    let angles = Angles { cos: &cos, sin: &sin };
    let said = |found: Result<Tensor>| found.unwrap_err().to_string();
    let short = HeadNorm { weight: &weight.narrow(0, 0, 5), eps: EPS };
    assert!(said(rotate(&x, &angles, Some(&short))).contains("weight"));
    let fewer = Angles { cos: &cos.narrow(1, 0, 2), sin: &sin };
    assert!(said(rotate(&x, &fewer, None)).contains("cosines"));
    assert!(said(rotate(&x.narrow(3, 0, 5), &angles, None)).contains("even"));
    // Sines by place and row, cosines by place alone: each would do with its like.
    let RotaryInputs { sin: of_rows, .. } = inputs([2, 3, 2, 6], 6, Kind::Float);
    assert!(said(rotate(&x, &Angles { cos: &cos, sin: &of_rows }, None)).contains("sines"));
    let other = Angles { cos: &cos, sin: &sin.to_kind(Kind::BFloat16) };
    assert!(said(rotate(&x, &other, None)).contains("FP32 or BF16"));
}

#[test]
fn emulated_rotations_equal_the_cpu() {
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
                        cpu::forward::<f32>(isa, &x, &rest, eps),
                        cpu::backward::<f32>(isa, &grad, &rest, eps),
                    ),
                    _ => (
                        cpu::forward::<bf16>(isa, &x, &rest, eps),
                        cpu::backward::<bf16>(isa, &grad, &rest, eps),
                    ),
                };
                let found = cuda::forward(&x, &rest, eps).unwrap();
                assert!(distance(&found, &y.unwrap()) < 3e-3, "{b} {t} {h} {e} {kind:?}");
                let (x_grad, weight_grad) = cuda::backward(&grad, &rest, eps).unwrap();
                let expected = back.unwrap();
                assert!(distance(&x_grad, &expected.0) < 3e-3, "{b} {t} {h} {e} {kind:?}");
                let pair = weight_grad.zip(expected.1);
                assert_eq!(pair.is_some(), eps.is_some());
                assert!(pair.is_none_or(|(found, expected)| distance(&found, &expected) < 3e-3));
            }
        }
    }
    assert!(!cuda::supports(24) && !cuda::supports(528) && cuda::supports(128));
}
