//! Weights of low precision with exact values beside them.

use bert4rs_optim::config::{Implementation, Masters};
use bert4rs_optim::{Optimizer, OptimizerConfig};
use bert4rs_tensor_core::{Kind, Tensor};

use crate::{distance, model, run};

/// Ten steps; the exact values then, and the weights.
fn exact_after(mut config: OptimizerConfig, masters: Masters) -> (Vec<Tensor>, Vec<Tensor>) {
    config.masters = masters;
    let mut params = model(Kind::BFloat16);
    let mut optimizer = Optimizer::new(config, &mut params).unwrap();
    run(&mut optimizer, &mut params, 0..10);
    let state = optimizer.state();
    let exact = params.iter().map(|param| match state.get(&format!("{}.low_bits", param.name)) {
        Some(low) => bert4rs_kernels::weight::join_tensor(&param.weight.detach(), low).unwrap(),
        None => param.exact().copy(),
    });
    (exact.collect(), params.iter().map(|param| param.weight.detach().copy()).collect())
}

#[test]
fn low_bits_are_as_exact_as_an_fp32_master() {
    for config in [OptimizerConfig::adamw(1e-2), OptimizerConfig::normuon(0.02, 1e-2)] {
        for implementation in [Implementation::Plain, Implementation::Fused] {
            let mut config = config.clone();
            config.adamw.implementation = implementation;
            let (masters, weights) = exact_after(config.clone(), Masters::Fp32);
            let (joined, split_weights) = exact_after(config, Masters::LowBits);
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
        let (plain, fused) =
            (after(Implementation::Plain, cautious), after(Implementation::Fused, cautious));
        assert!(plain.iter().zip(&fused).all(|(plain, fused)| distance(fused, plain) < 1e-6));
    }
}
