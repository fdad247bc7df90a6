//! Attention: its implementations agree, forward and backward, and say what they can't do.

use std::sync::atomic::{AtomicBool, Ordering};

use bert4rs_tensor_core::attention::{
    AttentionImplementation, AttentionOptions, MaskView, Scores, SdpaBackend, attend, attention,
    sdpa_backend,
};
use bert4rs_tensor_core::testing::cuda_or_skip;
use bert4rs_tensor_core::{Device, Kind, Tensor};

const PLAIN: AttentionOptions =
    AttentionOptions { implementation: AttentionImplementation::Plain, dropout: 0.0 };
const FUSED: AttentionOptions =
    AttentionOptions { implementation: AttentionImplementation::Fused, dropout: 0.0 };

/// Queries `[2, 4, t, 8]`, keys and values `[2, heads, s, 8]`.
fn inputs(t: i64, s: i64, heads: i64) -> [Tensor; 3] {
    [(4, t), (heads, s), (heads, s)].map(|(heads, time)| {
        let x = Tensor::randn([2, heads, time, 8], (Kind::Float, Device::Cpu));
        x.set_requires_grad(true)
    })
}

/// The result, and the gradients of its weighted sum.
fn run(inputs: &[Tensor; 3], scores: &Scores, options: &AttentionOptions) -> Vec<Tensor> {
    let [q, k, v] = inputs;
    let y = attend(q, k, v, scores, options).unwrap();
    let weights = Tensor::arange(y.numel() as i64, (Kind::Float, y.device())).sin();
    let mut leaves = vec![q, k, v];
    if let MaskView::Mask(mask) = scores.visible
        && mask.requires_grad()
    {
        leaves.push(mask);
    }
    let grads =
        Tensor::run_backward(&[(&y.flatten(0, -1) * weights).sum(None)], &leaves, false, false);
    std::iter::once(y).chain(grads).collect()
}

#[track_caller]
fn check_agree(inputs: &[Tensor; 3], visible: MaskView, scale: Option<f64>) {
    let scores = Scores { visible, scale };
    let plain = run(inputs, &scores, &PLAIN);
    for implementation in [AttentionImplementation::Fused, AttentionImplementation::Math] {
        let found = run(inputs, &scores, &AttentionOptions { implementation, dropout: 0.0 });
        for (plain, found) in plain.iter().zip(&found) {
            let off = (plain - found).abs().max().double_value(&[]);
            assert!(off < 1e-5, "{implementation:?} is off by {off:.1e}");
        }
    }
}

#[test]
fn a_kernel_that_must_run_does_or_is_refused() {
    let [q, k, v] = inputs(9, 9, 4);
    let scores = Scores { visible: MaskView::All, scale: None };
    let of = |implementation, q: &Tensor| {
        attend(q, &k, &v, &scores, &AttentionOptions { implementation, dropout: 0.0 })
    };
    let flash = of(AttentionImplementation::Flash, &q).unwrap();
    assert_eq!(flash, of(AttentionImplementation::Fused, &q).unwrap());
    for implementation in [
        AttentionImplementation::Efficient,
        AttentionImplementation::Cudnn,
        AttentionImplementation::Own,
    ] {
        let error = of(implementation, &q).unwrap_err().to_string();
        assert!(error.contains("fused"), "{error}");
    }
    let error =
        AttentionImplementation::Efficient.check_device(Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("it is for GPUs"), "{error}");
    assert!(AttentionImplementation::Own.check_device(Device::Cuda(0)).is_err());
    assert!(AttentionImplementation::Own.check_device(Device::Cpu).is_ok());
}

/// libtorch's switches are the process's: what one thread asks for must not reach another's call.
#[test]
fn a_kernel_that_is_asked_for_leaves_other_threads_alone() {
    let of = |implementation, [q, k, v]: &[Tensor; 3]| {
        let scores = Scores { visible: MaskView::All, scale: None };
        attend(q, k, v, &scores, &AttentionOptions { implementation, dropout: 0.0 })
    };
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let own = inputs(9, 9, 4);
            while !is_done.load(Ordering::Relaxed) {
                of(AttentionImplementation::Efficient, &own).unwrap_err();
                let _found = of(AttentionImplementation::Flash, &own).unwrap();
            }
        });
        let own = inputs(9, 9, 4);
        let failure = (0..3000).find_map(|_| of(AttentionImplementation::Fused, &own).err());
        is_done.store(true, Ordering::Relaxed);
        assert!(failure.is_none(), "{}", failure.unwrap());
    });
}

/// Every query sees its own place, and some others.
fn mask(t: i64, s: i64) -> Tensor {
    let some = Tensor::rand([2, 1, t, s], (Kind::Float, Device::Cpu)).gt(0.6);
    some.logical_or(&Tensor::eye_m(t, s, (Kind::Bool, Device::Cpu)))
}

#[test]
fn fused_equals_plain() {
    let whole = inputs(9, 9, 4);
    check_agree(&whole, MaskView::All, None);
    check_agree(&whole, MaskView::Causal, None);
    check_agree(&whole, MaskView::Mask(&mask(9, 9)), Some(1.0));
    check_agree(&inputs(5, 11, 4), MaskView::Mask(&mask(5, 11)), None);
}

#[test]
fn a_bias_gets_its_gradient() {
    let bias = Tensor::randn([1, 4, 9, 9], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    check_agree(&inputs(9, 9, 4), MaskView::Mask(&bias), Some(1.0));
}

#[test]
fn grouped_heads_equal_repeated_ones() {
    for heads in [1, 2] {
        let [q, k, v] = inputs(7, 7, heads);
        check_agree(
            &[q.shallow_clone(), k.shallow_clone(), v.shallow_clone()],
            MaskView::All,
            None,
        );
        let repeated = |x: &Tensor| x.repeat_interleave_self_int(4 / heads, 1, None);
        let want = attention(&q, &repeated(&k), &repeated(&v), None, &PLAIN).unwrap();
        let found = attention(&q, &k, &v, None, &FUSED).unwrap();
        assert!((found - want).abs().max().double_value(&[]) < 1e-5);
    }
}

#[test]
fn a_causal_query_sees_no_later_key() {
    let [q, k, v] = inputs(6, 6, 4);
    let scores = Scores { visible: MaskView::Causal, scale: None };
    for options in [PLAIN, FUSED] {
        let before = attend(&q, &k, &v, &scores, &options).unwrap();
        let changed = Tensor::cat(&[v.narrow(2, 0, 3), v.narrow(2, 3, 3) + 5.0], 2);
        let after = attend(&q, &k, &changed, &scores, &options).unwrap();
        let off = (before - after).abs().amax([0i64, 1, 3].as_slice(), false);
        assert!(off.narrow(0, 0, 3).max().double_value(&[]) < 1e-6);
        assert!(off.narrow(0, 3, 3).min().double_value(&[]) > 1e-3);
    }
}

#[test]
fn the_cpu_runs_flash_attention_with_and_without_a_mask() {
    let [q, k, v] = inputs(16, 16, 4);
    let seen = mask(16, 16);
    for visible in [MaskView::All, MaskView::Causal, MaskView::Mask(&seen)] {
        let found = sdpa_backend(
            &q,
            &k,
            &v,
            &Scores { visible, scale: None },
            AttentionImplementation::Fused,
        )
        .unwrap();
        assert_eq!(found, SdpaBackend::Flash, "{visible:?}");
    }
}

#[test]
fn what_is_not_possible_is_an_error() {
    let refused = |inputs: &[Tensor; 3], visible, options: &AttentionOptions| {
        let [q, k, v] = inputs;
        attend(q, k, v, &Scores { visible, scale: None }, options).unwrap_err().to_string()
    };
    let text = refused(&inputs(4, 5, 4), MaskView::Causal, &PLAIN);
    assert!(text.contains("causal") && text.contains("5, 8"), "{text}");
    let text = refused(&inputs(4, 4, 3), MaskView::All, &FUSED);
    assert!(text.contains("heads that divide"), "{text}");
    let dropping = AttentionOptions { dropout: 0.1, ..FUSED };
    let text = refused(&inputs(4, 4, 4), MaskView::All, &dropping);
    assert!(text.contains("dropout") && text.contains("plain"), "{text}");
}

#[test]
fn a_query_that_sees_no_key_gets_zeros() {
    let q = Tensor::randn([1, 2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let seen = Tensor::from_slice(&[false, false, true]).view([1, 1, 3, 1]);
    for implementation in [AttentionImplementation::Plain, AttentionImplementation::Fused] {
        let options = AttentionOptions { implementation, dropout: 0.0 };
        let out = attention(&q, &q, &q, Some(&seen), &options).unwrap();
        assert_eq!(out.narrow(2, 0, 2).abs().max().double_value(&[]), 0.0);
        let grad = Tensor::run_backward(&[out.sum(Kind::Float)], &[&q], false, false);
        assert!(bool::try_from(grad[0].isfinite().all()).unwrap());
    }
}

/// In BF16, as all of them take it; heads of 64 features. cuDNN's gradients are NaN at 192 with a
/// mask, where it is refused and not chosen.
#[test]
fn kernels_of_a_gpu_equal_the_formula() {
    let Some(device) = cuda_or_skip() else { return };
    for length in [96, 128, 192] {
        check_kernels(device, length);
    }
}

fn check_kernels(device: Device, length: i64) {
    let options = (Kind::Float, device);
    let inputs: [Tensor; 3] = std::array::from_fn(|_| {
        let x = Tensor::randn([2, 4, length, 64], options).to_kind(Kind::BFloat16);
        x.set_requires_grad(true)
    });
    let exact = inputs
        .each_ref()
        .map(|x| x.detach().to_device(Device::Cpu).to_kind(Kind::Float).set_requires_grad(true));
    let seen = mask(length, length);
    let seen_there = seen.to_device(device);
    let visible = |mask| [MaskView::All, MaskView::Causal, MaskView::Mask(mask)];
    for (here, there) in visible(&seen).into_iter().zip(visible(&seen_there)) {
        let expected = run(&exact, &Scores { visible: here, scale: None }, &PLAIN);
        use AttentionImplementation::{Cudnn, Efficient, Flash, Fused, Math};
        for implementation in [Fused, Math, Efficient, Flash, Cudnn] {
            let scores = Scores { visible: there, scale: None };
            let options = AttentionOptions { implementation, dropout: 0.0 };
            let is_masked = matches!(there, MaskView::Mask(_));
            let [q, k, v] = &inputs;
            // Flash attention takes no mask; cuDNN's is there on some GPUs alone.
            let may_refuse = implementation == Cudnn || is_masked && implementation == Flash;
            if may_refuse && let Err(error) = attend(q, k, v, &scores, &options) {
                assert!(error.to_string().contains("fused"), "{error}");
                continue;
            }
            assert!(!(is_masked && implementation == Flash), "flash attention took a mask");
            let found = run(&inputs, &scores, &options);
            for (found, expected) in found.iter().zip(&expected) {
                let off = found.to_device(Device::Cpu).to_kind(Kind::Float) - expected;
                let distance = (off.norm() / expected.norm()).double_value(&[]);
                let what = format!("{implementation:?} {there:?} {length}");
                assert!(distance < 2e-2, "{what}: off by {distance:.1e}");
            }
        }
    }
}
