//! Layers of Muon that take turns.

use bert4rs_optim::{MuonConfig, Optimizer, OptimizerConfig, UpdateImplementation};
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::{Kind, Tensor};

use crate::{model, run};

/// Matrices of two layers, and what AdamW updates.
fn layers() -> Vec<Param> {
    let mut params = model(Kind::Float);
    for (param, name) in params.iter_mut().zip(["layer.0.a", "layer.1.a", "layer.1.b"]) {
        param.name = name.into();
    }
    params
}

fn optimizer(turns: u32, implementation: UpdateImplementation, params: &mut [Param]) -> Optimizer {
    let mut config = OptimizerConfig::muon(0.02, 1e-3);
    config.muon = Some(MuonConfig { turns, implementation, ..MuonConfig::muon(0.02) });
    Optimizer::new(config, params).unwrap()
}

fn weights(params: &[Param]) -> Vec<Tensor> {
    params.iter().map(|param| param.weight.detach().copy()).collect()
}

#[test]
fn one_layer_moves_in_a_step_and_all_keep_momentum() {
    for implementation in [UpdateImplementation::Plain, UpdateImplementation::Fused] {
        let mut params = layers();
        let mut optimizer = optimizer(2, implementation, &mut params);
        for step in 0..4 {
            let (before, state) = (weights(&params), optimizer.state().unwrap());
            let momentum = |state: &std::collections::BTreeMap<String, Tensor>, name: &str| {
                state[&format!("{name}.momentum_buffer")].copy()
            };
            let names = ["layer.0.a", "layer.1.a", "layer.1.b"];
            let momenta = names.map(|name| momentum(&state, name));
            run(&mut optimizer, &mut params, step..step + 1);
            let moved: Vec<bool> = before
                .iter()
                .zip(weights(&params))
                .map(|(before, after)| !before.equal(&after))
                .collect();
            // The first step is number 1, layer 1's.
            let odd = step % 2 == 0;
            assert_eq!(moved, [!odd, odd, odd, true, true], "{implementation:?}, step {step}");
            let state = optimizer.state().unwrap();
            for (name, before) in names.iter().zip(&momenta) {
                assert!(!momentum(&state, name).equal(before), "{name}");
            }
        }
    }
}

#[test]
fn a_turn_goes_on_where_it_was() {
    let all = |implementation| {
        let mut params = layers();
        let mut optimizer = optimizer(3, implementation, &mut params);
        run(&mut optimizer, &mut params, 0..7);
        weights(&params)
    };
    let mut params = layers();
    let mut first = optimizer(3, UpdateImplementation::Auto, &mut params);
    run(&mut first, &mut params, 0..4);
    let state = first.state().unwrap();
    let mut second = optimizer(3, UpdateImplementation::Auto, &mut params);
    second.load_state(&state).unwrap();
    run(&mut second, &mut params, 4..7);
    let expected = all(UpdateImplementation::Auto);
    assert!(weights(&params).iter().zip(&expected).all(|(a, b)| a.equal(b)));
}

#[test]
fn no_turns_are_refused() {
    let mut config = OptimizerConfig::muon(0.02, 1e-3);
    config.muon = Some(MuonConfig { turns: 0, ..MuonConfig::muon(0.02) });
    let error = Optimizer::new(config, &mut layers()).unwrap_err().to_string();
    assert!(error.contains("muon.turns") && error.contains("at least 1"), "{error}");
}
