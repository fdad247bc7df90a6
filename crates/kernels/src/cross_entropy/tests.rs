//! Against the formula, operation by operation, in FP64, and the CUDA kernel too.

use bert4rs_tensor_core::policy::Backend;
use bert4rs_tensor_core::{Kind, Reduction};

use super::*;
use crate::testing::{distance, random};

const NONE: CrossEntropyOptions =
    CrossEntropyOptions { label_smoothing: 0.0, z_loss: 0.0, soft_cap: None, ignored: -100 };

fn leaf(shape: &[i64], kind: Kind) -> Tensor {
    let x = random(shape, Kind::Float) * 0.7;
    x.to_kind(kind).set_requires_grad(true)
}

/// As losses are usually computed: all logits, then their log-softmax.
fn plain(inputs: &[Tensor], labels: &Tensor, options: &CrossEntropyOptions) -> Tensor {
    let mut logits = inputs[0].linear(&inputs[1], inputs.get(2));
    if let Some(cap) = options.soft_cap {
        logits = (logits / cap).tanh() * cap;
    }
    let log_probs = logits.log_softmax(-1, Kind::Double);
    let mean = Reduction::Mean;
    let hit = log_probs.nll_loss_nd(labels, None::<Tensor>, mean, options.ignored);
    let counted = labels.ne(options.ignored).to_kind(Kind::Double);
    let mean_of = |x: Tensor| (x * &counted).sum(Kind::Double) / counted.sum(Kind::Double);
    let uniform = mean_of(-log_probs.mean_dim(-1, false, Kind::Double));
    hit * (1.0 - options.label_smoothing)
        + uniform * options.label_smoothing
        + mean_of(logits.logsumexp(-1, false).square()) * options.z_loss
}

fn check_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let error = (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
    let greatest = expected.abs().max().double_value(&[]);
    assert!(error <= tolerance * greatest, "{what}: off by {error:.2e} of {greatest:.2e}");
}

fn check_one(kind: Kind, classes: i64, biased: bool, limit: i64, options: &CrossEntropyOptions) {
    check_padded(kind, classes, biased, (limit, 1), options);
}

fn check_padded(
    kind: Kind,
    classes: i64,
    biased: bool,
    (limit, multiple): (i64, i64),
    options: &CrossEntropyOptions,
) {
    let (rows, features) = (23, 32);
    let mut inputs = vec![leaf(&[rows, features], kind), leaf(&[classes, features], kind)];
    if biased {
        inputs.push(leaf(&[classes], kind));
    }
    let labels = Tensor::randint(classes, [rows], (Kind::Int64, Device::Cpu));
    let _ = labels.get(3).fill_(options.ignored);
    let _ = labels.get(22).fill_(options.ignored);
    let output = OutputWeights { weight: &inputs[1], bias: inputs.get(2) };
    let labels_of = (&labels, None);
    // The CPU's own kernels never pad.
    let by_libtorch = [Op::CrossEntropy, Op::LinearCrossEntropy].map(|op| (op, Backend::Libtorch));
    let policy = match multiple {
        1 => Policy::default(),
        _ => Policy::default().with_overrides(&by_libtorch),
    };
    let found = linear_cross_entropy_in(
        &inputs[0],
        output,
        labels_of,
        (options, &policy),
        ProductPlan { limit, multiple },
    )
    .unwrap();
    let doubles: Vec<Tensor> = inputs
        .iter()
        .map(|input| input.detach().to_kind(Kind::Double).set_requires_grad(true))
        .collect();
    let expected = plain(&doubles, &labels, options);
    let name = format!("{kind:?} {classes} classes, {limit} at once, {options:?}");
    let tolerance = match kind {
        Kind::Double => 1e-12,
        Kind::Float => 1e-5,
        _ => 2e-2,
    };
    check_close(&name, &found, &expected, tolerance);
    let grads = Tensor::run_backward(&[found * 3.0], &inputs, false, false);
    let expected = Tensor::run_backward(&[expected * 3.0], &doubles, false, false);
    for (i, (found, expected)) in grads.iter().zip(&expected).enumerate() {
        assert_eq!(found.kind(), kind);
        check_close(&format!("gradient {i}, {name}"), found, expected, 2.0 * tolerance);
    }
}

#[test]
fn equals_the_plain_loss_and_its_gradients() {
    let all = CrossEntropyOptions {
        label_smoothing: 0.1,
        z_loss: 1e-2,
        soft_cap: Some(5.0),
        ignored: -100,
    };
    for kind in [Kind::Double, Kind::Float, Kind::BFloat16] {
        for classes in [1, 15, 16, 50, 131, 300] {
            for limit in [1, 7 * classes, 1 << 20] {
                check_one(kind, classes, classes % 2 == 1, limit, &NONE);
                check_one(kind, classes, classes % 2 == 0, limit, &all);
            }
        }
        check_one(kind, 50, true, 100, &CrossEntropyOptions { label_smoothing: 0.1, ..NONE });
        check_one(kind, 50, true, 100, &CrossEntropyOptions { z_loss: 0.1, ..NONE });
        check_one(kind, 50, true, 100, &CrossEntropyOptions { soft_cap: Some(2.0), ..NONE });
    }
}

/// As on a GPU: the classes that are added have no part in loss and gradients.
#[test]
fn classes_are_padded_in_memory_alone() {
    let all = CrossEntropyOptions {
        label_smoothing: 0.1,
        z_loss: 1e-2,
        soft_cap: Some(5.0),
        ignored: -100,
    };
    for kind in [Kind::Double, Kind::Float, Kind::BFloat16] {
        for (classes, limit) in [(50, 1 << 20), (64, 7 * 64), (131, 7 * 131)] {
            check_padded(kind, classes, true, (limit, 64), &NONE);
            check_padded(kind, classes, false, (limit, 64), &all);
        }
    }
}

#[test]
fn without_gradients_the_loss_is_the_same() {
    let (hidden, weight) = (leaf(&[9, 32], Kind::Float), leaf(&[40, 32], Kind::Float));
    let labels = Tensor::randint(40, [9], (Kind::Int64, Device::Cpu));
    let output = OutputWeights { weight: &weight, bias: None };
    let loss =
        || linear_cross_entropy(&hidden, output, &labels, None, &NONE, &Policy::default()).unwrap();
    let with = loss();
    let without = bert4rs_tensor_core::no_grad(loss);
    assert!(with.requires_grad() && !without.requires_grad());
    assert_eq!(with.double_value(&[]), without.double_value(&[]));
}

#[test]
fn a_nan_is_seen_and_labels_are_checked() {
    let (hidden, weight) = (leaf(&[4, 32], Kind::Float), leaf(&[40, 32], Kind::Float));
    let output = OutputWeights { weight: &weight, bias: None };
    let labels = Tensor::from_slice(&[0i64, 1, 2, 39]);
    let broken = hidden.detach();
    let _ = broken.get(2).get(5).fill_(f64::NAN);
    let loss =
        linear_cross_entropy(&broken, output, &labels, None, &NONE, &Policy::default()).unwrap();
    assert!(loss.double_value(&[]).is_nan());
    for wrong in [40i64, -1] {
        let labels = Tensor::from_slice(&[0, 1, 2, wrong]);
        let error = linear_cross_entropy(&hidden, output, &labels, None, &NONE, &Policy::default())
            .unwrap_err();
        assert!(error.to_string().contains(&wrong.to_string()), "{error}");
    }
    let all_ignored = Tensor::from_slice(&[-100i64; 4]);
    let loss = linear_cross_entropy(&hidden, output, &all_ignored, None, &NONE, &Policy::default())
        .unwrap();
    assert!(loss.double_value(&[]).is_nan(), "as libtorch's mean of nothing");
}

#[test]
fn parts_with_one_divisor_add_up_to_the_whole() {
    let (hidden, weight) = (leaf(&[12, 32], Kind::Float), leaf(&[40, 32], Kind::Float));
    let labels = Tensor::randint(40, [12], (Kind::Int64, Device::Cpu));
    let _ = labels.get(2).fill_(-100);
    let options = CrossEntropyOptions { label_smoothing: 0.1, z_loss: 1e-2, ..NONE };
    let output = OutputWeights { weight: &weight, bias: None };
    let loss = |hidden: &Tensor, labels: &Tensor, divisor: Option<&Tensor>| {
        linear_cross_entropy(hidden, output, labels, divisor, &options, &Policy::default()).unwrap()
    };
    let whole = loss(&hidden, &labels, None);
    let divisor = Tensor::from(11i64);
    let part = |first: i64, length: i64| {
        let (hidden, labels) = (hidden.narrow(0, first, length), labels.narrow(0, first, length));
        loss(&hidden, &labels, Some(&divisor))
    };
    let sum = part(0, 5) + part(5, 7);
    check_close("loss", &sum, &whole.to_kind(Kind::Double), 1e-6);
    let inputs = [&hidden, &weight];
    let found = Tensor::run_backward(&[sum], &inputs, false, false);
    let expected = Tensor::run_backward(&[whole], &inputs, false, false);
    for (found, expected) in found.iter().zip(&expected) {
        check_close("gradient", found, &expected.to_kind(Kind::Double), 1e-6);
    }
}

#[test]
fn emulated_softmax_equals_fp64() {
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
            let how = (&options, &Policy::default());
            let exact =
                softmax_cross_entropy_in_place(&mut expected, &labels, &count, how, true).unwrap();
            for padding in [0, 3] {
                let room = Tensor::full([rows, classes + padding], 7.0, (Kind::Float, Device::Cpu));
                let mut found = room.narrow(1, 0, classes);
                found.copy_(&logits);
                let loss = cuda::softmax_cross_entropy_in_place(
                    &mut found, &labels, &count, &options, true,
                )
                .unwrap();
                assert!(distance(&loss, &exact) < 1e-5 && distance(&found, &expected) < 1e-4);
                assert!(room.narrow(1, classes, padding).eq(7.0).all().int64_value(&[]) == 1);
            }
        }
    }
}
