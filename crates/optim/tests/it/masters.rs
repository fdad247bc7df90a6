//! Weights of low precision with exact values beside them.

use bert4rs_optim::muon::{LrScale, MatrixSplit, SplitRows};
use bert4rs_optim::normuon::{NorMuonConfig, SecondMomentAxis};
use bert4rs_optim::{
    ClipConfig, ClipScope, Masters, MuonConfig, Optimizer, OptimizerConfig, UpdateImplementation,
};
use bert4rs_tensor_core::{Kind, Tensor};

use crate::{distance, model, run};

/// Ten steps; the exact values then, and the weights.
fn exact_after(mut config: OptimizerConfig, masters: Masters) -> (Vec<Tensor>, Vec<Tensor>) {
    config.masters = masters;
    let mut params = model(Kind::BFloat16);
    let mut optimizer = Optimizer::new(config, &mut params).unwrap();
    run(&mut optimizer, &mut params, 0..10);
    let state = optimizer.state().unwrap();
    let exact =
        params.iter().map(|param| match state.get(&format!("{}.bf16_residual", param.name)) {
            Some(low) => bert4rs_kernels::weight::join_tensor(&param.weight.detach(), low).unwrap(),
            None => param.master_or_weight().copy(),
        });
    (exact.collect(), params.iter().map(|param| param.weight.detach().copy()).collect())
}

#[test]
fn low_bits_are_as_exact_as_an_fp32_master() {
    for config in [OptimizerConfig::adamw(1e-2), OptimizerConfig::normuon(0.02, 1e-2)] {
        for implementation in [UpdateImplementation::Plain, UpdateImplementation::Fused] {
            let mut config = config.clone();
            config.adamw.implementation = implementation;
            let (masters, weights) = exact_after(config.clone(), Masters::Fp32);
            let (joined, split_weights) = exact_after(config, Masters::Bf16Residual);
            for (master, joined) in masters.iter().zip(&joined) {
                assert!(master.equal(joined), "{implementation:?}");
            }
            for ((master, weight), split) in masters.iter().zip(&weights).zip(&split_weights) {
                assert!(weight.equal(&master.to_kind(Kind::BFloat16)));
                assert!(distance(split, master) < 4e-3);
            }
        }
    }
}

/// Muon in every form that its passes over memory depend on.
fn muons() -> Vec<MuonConfig> {
    let base = || MuonConfig { weight_decay: 0.1, ..MuonConfig::muon(0.02) };
    let normuon = |axis| Some(NorMuonConfig { beta2: 0.9, axis });
    let split = MatrixSplit { names: "query*".into(), rows: SplitRows::Each(4) };
    vec![
        MuonConfig { nesterov: false, scale: LrScale::Spectral, ..base() },
        MuonConfig { normuon: normuon(SecondMomentAxis::Rows), cautious: true, ..base() },
        MuonConfig {
            normuon: normuon(SecondMomentAxis::LongerSide),
            splits: vec![split],
            ..base()
        },
        MuonConfig { scale: LrScale::UpdateRms, ..base() },
        MuonConfig { turns: 2, ..base() },
        MuonConfig {
            scale: LrScale::UpdateRms,
            normuon: normuon(SecondMomentAxis::LongerSide),
            ..base()
        },
    ]
}

#[test]
fn muon_fused_and_plain_agree() {
    for muon in muons() {
        let after = |implementation, masters| {
            let mut config = OptimizerConfig::adamw(1e-2);
            config.clip = Some(ClipConfig { max_norm: 0.5, scope: ClipScope::All });
            config.muon = Some(MuonConfig { implementation, ..muon.clone() });
            exact_after(config, masters).0
        };
        let plain = after(UpdateImplementation::Plain, Masters::Fp32);
        for masters in [Masters::Fp32, Masters::Bf16Residual] {
            let fused = after(UpdateImplementation::Fused, masters);
            for (plain, fused) in plain.iter().zip(&fused) {
                let distance = distance(fused, plain);
                assert!(distance < 1e-5, "{muon:?}, {masters:?}: off by {distance}");
            }
        }
    }
}

#[test]
fn low_precision_without_a_master_is_refused() {
    let mut params = model(Kind::BFloat16);
    params[1].master = None;
    let error = Optimizer::new(OptimizerConfig::adamw(1e-3), &mut params).unwrap_err().to_string();
    assert!(error.contains("key.weight") && error.contains("lose small updates"), "{error}");
}

#[test]
fn fused_and_plain_agree() {
    let after = |implementation, cautious| {
        let mut config = OptimizerConfig::adamw(1e-2);
        (config.adamw.implementation, config.adamw.cautious) = (implementation, cautious);
        exact_after(config, Masters::Fp32).0
    };
    for cautious in [false, true] {
        let (plain, fused) = (
            after(UpdateImplementation::Plain, cautious),
            after(UpdateImplementation::Fused, cautious),
        );
        assert!(plain.iter().zip(&fused).all(|(plain, fused)| distance(fused, plain) < 1e-6));
    }
}
