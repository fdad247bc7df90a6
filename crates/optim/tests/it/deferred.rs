//! Steps that the host does not wait for do what the others do.

use bert4rs_optim::config::{ClipConfig, ClipScope, Implementation, Masters};
use bert4rs_optim::momentum::Warmup;
use bert4rs_optim::muon::LrScale;
use bert4rs_optim::{Error, Optimizer, OptimizerConfig};
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Kind, Tensor};

use crate::{distance, grads, model};

fn configs() -> Vec<OptimizerConfig> {
    let mut bf16_residual = OptimizerConfig::normuon(0.02, 1e-3);
    bf16_residual.masters = Masters::Bf16Residual;
    bf16_residual.adamw.cautious = true;
    let mut all = OptimizerConfig::normuon(0.02, 1e-3);
    all.clip = Some(ClipConfig { max_norm: 0.5, scope: ClipScope::All });
    if let Some(muon) = &mut all.muon {
        muon.scale = LrScale::UpdateRms;
        (muon.weight_decay, muon.cautious) = (0.1, true);
        muon.momentum.warmup = Some(Warmup { from: 0.85, steps: 4 });
    }
    let bases = vec![
        OptimizerConfig::adamw(1e-3),
        OptimizerConfig { clip: None, ..OptimizerConfig::adamw(1e-3) },
        OptimizerConfig::muon(0.02, 1e-3),
        OptimizerConfig::normuon(0.02, 1e-3),
        bf16_residual,
        all,
    ];
    let mut configs = Vec::new();
    for implementation in [Implementation::Plain, Implementation::Auto] {
        for mut config in bases.clone() {
            config.adamw.implementation = implementation;
            if let Some(muon) = &mut config.muon {
                muon.implementation = implementation;
            }
            configs.push(config);
        }
    }
    configs
}

/// Gradients of which those of `step` 2 and 3 are not finite.
fn with_bad_ones(params: &[Param], step: i64) -> Vec<Tensor> {
    let grads = grads(params, step);
    let bad = [f64::NAN, f64::INFINITY];
    if let Some(bad) = usize::try_from(step - 2).ok().and_then(|place| bad.get(place)) {
        let _ = grads[1].get(2).fill_(*bad);
    }
    grads
}

#[test]
fn they_equal_steps_that_the_host_decides_about() {
    for config in configs() {
        let kind = if config.clip.is_some() { Kind::BFloat16 } else { Kind::Float };
        let (mut params, mut expected) = (model(kind), model(kind));
        let mut optimizer = Optimizer::new(config.clone(), &mut params).unwrap();
        let mut plain = Optimizer::new(config.clone(), &mut expected).unwrap();
        let mut deferred = optimizer.defer(&params).unwrap();
        for step in 0..7 {
            let factor = 1.0 / (step + 1) as f64;
            let grads = with_bad_ones(&params, step);
            let report = plain.step(&mut expected, &grads, factor).unwrap();
            deferred.set_lr_factor(factor).unwrap();
            optimizer.step_deferred(&mut params, &grads, &mut deferred).unwrap();
            let norm = deferred.grad_norm().double_value(&[]);
            assert_eq!(report.skipped, !norm.is_finite());
            assert!(report.skipped || (norm - report.grad_norm).abs() < 1e-12 * norm);
        }
        optimizer.settle(&mut deferred).unwrap();
        assert_eq!((optimizer.skipped(), plain.skipped()), (2, 2));
        let (found, state) = (optimizer.state(), plain.state());
        for (name, expected) in &state {
            let off = distance(&found[name], expected);
            assert!(name.ends_with("bf16_residual") || off < 1e-5, "{config:?}: {name} by {off}");
        }
        for (param, expected) in params.iter().zip(&expected) {
            let tolerance = if kind == Kind::Float { 1e-6 } else { 4e-3 };
            let off = distance(&param.weight, &expected.weight);
            assert!(off < tolerance, "{config:?}: {} by {off}", param.name);
            let off = distance(param.master_or_weight(), expected.master_or_weight());
            assert!(
                config.masters == Masters::Bf16Residual || off < 1e-5,
                "{} by {off}",
                param.name
            );
        }
    }
}

#[test]
fn a_skipped_one_changes_no_bit() {
    for config in configs() {
        let mut params = model(Kind::BFloat16);
        let mut optimizer = Optimizer::new(config, &mut params).unwrap();
        let mut deferred = optimizer.defer(&params).unwrap();
        deferred.set_lr_factor(1.0).unwrap();
        let mut step = |optimizer: &mut Optimizer, params: &mut [Param], step| {
            let grads = with_bad_ones(params, step);
            optimizer.step_deferred(params, &grads, &mut deferred).unwrap();
        };
        step(&mut optimizer, &mut params, 0);
        let copy = |params: &[Param], optimizer: &Optimizer| -> Vec<Tensor> {
            let weights = params.iter().flat_map(|param| [&param.weight, param.master_or_weight()]);
            let state = optimizer.state();
            weights.map(Tensor::copy).chain(state.values().map(Tensor::copy)).collect()
        };
        let before = copy(&params, &optimizer);
        step(&mut optimizer, &mut params, 2);
        step(&mut optimizer, &mut params, 3);
        let after = copy(&params, &optimizer);
        assert!(before.iter().zip(&after).all(|(before, after)| before.equal(after)));
        step(&mut optimizer, &mut params, 4);
        assert!(before.iter().zip(&copy(&params, &optimizer)).any(|(old, new)| !old.equal(new)));
    }
}

#[test]
fn counters_go_on_and_too_many_skipped_ones_end_the_run() {
    let config = OptimizerConfig { max_skipped_in_a_row: 3, ..OptimizerConfig::muon(0.02, 1e-3) };
    let mut params = model(Kind::Float);
    let mut optimizer = Optimizer::new(config, &mut params).unwrap();
    crate::run(&mut optimizer, &mut params, 0..2);
    let mut deferred = optimizer.defer(&params).unwrap();
    deferred.set_lr_factor(1.0).unwrap();
    let mut take = |optimizer: &mut Optimizer, steps: &[i64]| {
        for &step in steps {
            let grads = with_bad_ones(&params, step);
            optimizer.step_deferred(&mut params, &grads, &mut deferred).unwrap();
        }
        optimizer.settle(&mut deferred)
    };
    take(&mut optimizer, &[0, 1, 2]).unwrap();
    take(&mut optimizer, &[2, 4, 5]).unwrap();
    assert_eq!(optimizer.state()["norm.weight.step"].int64_value(&[]), 6);
    assert_eq!(optimizer.skipped(), 2);
    // The third in a row is seen even when the last was taken.
    let error = take(&mut optimizer, &[2, 3, 2, 4]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { steps: 3 }), "{error}");
}
