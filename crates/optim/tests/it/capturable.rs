//! Capturable steps are the eager ones, to the bit.

use bert4rs_optim::momentum::Warmup;
use bert4rs_optim::muon::LrScale;
use bert4rs_optim::{
    ClipConfig, ClipScope, Error, Masters, Optimizer, OptimizerConfig, UpdateImplementation,
};
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Kind, Tensor};

use crate::{grads, model};

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
    for implementation in [UpdateImplementation::Plain, UpdateImplementation::Auto] {
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
fn capturable_steps_equal_eager_ones_to_the_bit() {
    for config in configs() {
        let kind = if config.clip.is_some() { Kind::BFloat16 } else { Kind::Float };
        let (mut params, mut expected) = (model(kind), model(kind));
        let mut optimizer = Optimizer::new(config.clone(), &mut params).unwrap();
        let mut plain = Optimizer::new(config.clone(), &mut expected).unwrap();
        for step in 0..7 {
            let factor = 1.0 / (step + 1) as f64;
            let grads = with_bad_ones(&params, step);
            let report = plain.step(&mut expected, &grads, factor).unwrap();
            optimizer.set_lr_factor(factor).unwrap();
            optimizer.step_capturable(&mut params, &grads).unwrap();
            let norm = optimizer.grad_norm().double_value(&[]);
            assert_eq!(report.skipped, !norm.is_finite());
            assert!(report.skipped || norm == report.grad_norm);
        }
        optimizer.sync_counters().unwrap();
        assert_eq!((optimizer.skipped(), plain.skipped()), (2, 2));
        let (found, state) = (optimizer.state().unwrap(), plain.state().unwrap());
        for (name, expected) in &state {
            assert!(found[name].equal(expected), "{config:?}: {name}");
        }
        for (param, expected) in params.iter().zip(&expected) {
            let exact = param.master_or_weight().equal(expected.master_or_weight());
            assert!(exact && param.weight.equal(&expected.weight), "{config:?}: {}", param.name);
        }
    }
}

#[test]
fn a_skipped_step_changes_no_bit() {
    for config in configs() {
        let mut params = model(Kind::BFloat16);
        let mut optimizer = Optimizer::new(config, &mut params).unwrap();
        let step = |optimizer: &mut Optimizer, params: &mut [Param], step| {
            let grads = with_bad_ones(params, step);
            optimizer.step_capturable(params, &grads).unwrap();
        };
        step(&mut optimizer, &mut params, 0);
        let copy = |params: &[Param], optimizer: &Optimizer| -> Vec<Tensor> {
            let weights = params.iter().flat_map(|param| [&param.weight, param.master_or_weight()]);
            let mut state = optimizer.state().unwrap();
            state.remove("optimizer.counters");
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
fn counters_go_on_and_too_many_skipped_steps_end_the_run() {
    let config = OptimizerConfig { max_skipped_in_a_row: 3, ..OptimizerConfig::muon(0.02, 1e-3) };
    let mut params = model(Kind::Float);
    let mut optimizer = Optimizer::new(config, &mut params).unwrap();
    crate::run(&mut optimizer, &mut params, 0..2);
    let mut take = |optimizer: &mut Optimizer, steps: &[i64]| {
        for &step in steps {
            let grads = with_bad_ones(&params, step);
            optimizer.step_capturable(&mut params, &grads).unwrap();
        }
        optimizer.sync_counters()
    };
    take(&mut optimizer, &[0, 1, 2]).unwrap();
    take(&mut optimizer, &[2, 4, 5]).unwrap();
    assert_eq!(optimizer.state().unwrap()["norm.weight.step"].int64_value(&[]), 6);
    assert_eq!(optimizer.skipped(), 2);
    // The third in a row is seen even when the last was taken.
    let error = take(&mut optimizer, &[2, 3, 2, 4]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { steps: 3 }), "{error}");
}
