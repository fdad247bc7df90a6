//! Twenty steps of the references, weight by weight. `tests/vectors/generate.py` wrote them.

use std::collections::BTreeMap;
use std::path::Path;

use bert4rs_optim::momentum::{Momentum, Warmup};
use bert4rs_optim::muon::LrScale;
use bert4rs_optim::normuon::{NorMuonConfig, SecondMomentAxis};
use bert4rs_optim::polar::{Coefficients, Iteration};
use bert4rs_optim::{MuonConfig, Optimizer, OptimizerConfig, UpdateImplementation};
use bert4rs_tensor_core::param::{Param, Role};
use bert4rs_tensor_core::{Kind, Tensor, safetensors};

use crate::{distance, param};

const STEPS: i64 = 20;
const TOLERANCE: f64 = 1e-6;

fn load(file: &str) -> BTreeMap<String, Tensor> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    safetensors::load(&folder.join(file)).unwrap()
}

/// Runs `config` on the gradients of `file` and holds every step against `case`.
fn check(file: &str, case: &str, config: OptimizerConfig) {
    let vectors = load(file);
    let kind = if case.contains("fp64") { Kind::Double } else { Kind::Float };
    let names: Vec<&str> = vectors.keys().filter_map(|key| key.strip_prefix("initial.")).collect();
    let make =
        |name: &&str| param(name, Role::Matrix, &vectors[&format!("initial.{name}")].to_kind(kind));
    let mut params: Vec<Param> = names.iter().map(make).collect();
    let mut optimizer = Optimizer::new(config, &mut params).unwrap();
    for step in 0..STEPS {
        let grad = |name: &&str| vectors[&format!("grads.{name}")].get(step).to_kind(kind);
        let grads: Vec<Tensor> = names.iter().map(grad).collect();
        optimizer.step(&mut params, &grads, 1.0).unwrap();
        for param in &params {
            let expected = vectors[&format!("{case}.{}", param.name)].get(step);
            let found = distance(&param.weight, &expected);
            assert!(found < TOLERANCE, "{case}, {} at step {step}: off by {found:e}", param.name);
        }
    }
}

fn adamw(implementation: UpdateImplementation) -> OptimizerConfig {
    let mut config = OptimizerConfig::adamw(1e-2);
    config.clip = None;
    (config.adamw.beta2, config.adamw.eps) = (0.98, 1e-6);
    config.adamw.weight_decay = 0.1;
    config.adamw.implementation = implementation;
    config
}

fn muon(change: impl FnOnce(&mut MuonConfig)) -> OptimizerConfig {
    let mut config = OptimizerConfig::muon(2e-2, 1e-3);
    config.clip = None;
    if let Some(muon) = &mut config.muon {
        muon.coefficients = Coefficients::Jordan { steps: 5 };
        muon.weight_decay = 0.1;
        muon.iteration = Iteration::Standard;
        change(muon);
    }
    config
}

#[test]
fn adamw_is_torch_optim_adamw() {
    check("adamw.safetensors", "adamw_fp32", adamw(UpdateImplementation::Plain));
    check("adamw.safetensors", "adamw_fp32", adamw(UpdateImplementation::Fused));
    check("adamw.safetensors", "adamw_fp64", adamw(UpdateImplementation::Auto));
}

#[test]
fn muon_is_torch_optim_muon() {
    let plain = muon(|muon| muon.implementation = UpdateImplementation::Plain);
    check("muon.safetensors", "muon_fp32", plain);
    let fused = muon(|muon| muon.implementation = UpdateImplementation::Fused);
    check("muon.safetensors", "muon_fp32", fused);
    check("muon.safetensors", "muon_fp64", muon(|_| {}));
    check("muon.safetensors", "muon_fp64", muon(|muon| muon.iteration = Iteration::Gram));
    check("muon.safetensors", "muon_plain_momentum_fp64", muon(|muon| muon.nesterov = false));
    check(
        "muon.safetensors",
        "muon_match_rms_fp64",
        muon(|muon| muon.scale = LrScale::MatchRmsAdamw),
    );
}

#[test]
fn momentum_warms_up_as_in_a_loop_around_torch() {
    let momentum =
        Momentum { value: 0.95, warmup: Some(Warmup { from: 0.85, steps: 10 }), cooldown: None };
    check("muon.safetensors", "muon_warm_up_fp64", muon(|muon| muon.momentum = momentum));
}

#[test]
fn cautious_decay_is_its_definition() {
    let cautious = muon(|muon| (muon.cautious, muon.weight_decay) = (true, 0.5));
    check("muon.safetensors", "muon_cautious_fp64", cautious);
}

#[test]
fn normuon_is_the_authors_rule() {
    let normuon = Some(NorMuonConfig { beta2: 0.95, axis: SecondMomentAxis::Rows });
    for implementation in [UpdateImplementation::Plain, UpdateImplementation::Fused] {
        let change = |muon: &mut MuonConfig| {
            (muon.normuon, muon.implementation) = (normuon, implementation);
        };
        check("muon.safetensors", "normuon_fp32", muon(change));
    }
    check("muon.safetensors", "normuon_fp64", muon(|muon| muon.normuon = normuon));
}
