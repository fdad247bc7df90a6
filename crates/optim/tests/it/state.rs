//! Saving, restoring, skipping, refusing.

use bert4rs_optim::group::{Assignment, UpdateRule};
use bert4rs_optim::muon::{MatrixSplit, SplitRows};
use bert4rs_optim::{ClipConfig, ClipScope, Error, Masters, Optimizer, OptimizerConfig};
use bert4rs_tensor_core::{Kind, Tensor};

use crate::{grads, model, run};

fn configs() -> Vec<OptimizerConfig> {
    let mut bf16_residual = OptimizerConfig::normuon(0.02, 1e-3);
    bf16_residual.masters = Masters::Bf16Residual;
    let mut split = OptimizerConfig::normuon(0.02, 1e-3);
    if let Some(muon) = &mut split.muon {
        muon.splits = vec![MatrixSplit { names: "query*".into(), rows: SplitRows::Parts(3) }];
    }
    vec![
        OptimizerConfig::adamw(1e-3),
        OptimizerConfig::muon(0.02, 1e-3),
        OptimizerConfig::normuon(0.02, 1e-3),
        bf16_residual,
        split,
    ]
}

#[test]
fn a_restored_run_goes_on_bit_for_bit_in_any_order_of_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("optimizer.safetensors");
    for config in configs() {
        let mut params = model(Kind::BFloat16);
        let mut optimizer = Optimizer::new(config.clone(), &mut params).unwrap();
        run(&mut optimizer, &mut params, 0..3);
        optimizer.save(&file).unwrap();

        let mut reversed = model(Kind::BFloat16);
        reversed.reverse();
        let mut resumed = Optimizer::new(config, &mut reversed).unwrap();
        resumed.load(&file).unwrap();
        for (new, old) in reversed.iter_mut().rev().zip(&params) {
            new.weight.set_data(&old.weight.copy());
            new.master = old.master.as_ref().map(Tensor::copy);
        }
        run(&mut optimizer, &mut params, 3..6);
        for step in 3..6 {
            let mut grads = grads(&params, step);
            grads.reverse();
            resumed.step(&mut reversed, &grads, 1.0).unwrap();
        }
        for (new, old) in reversed.iter().rev().zip(&params) {
            assert!(new.weight.equal(&old.weight), "{}", old.name);
            assert!(new.master_or_weight().equal(old.master_or_weight()), "{}", old.name);
        }
        let (new, old) = (resumed.state().unwrap(), optimizer.state().unwrap());
        assert!(old.iter().all(|(name, tensor)| new[name].equal(tensor)));
    }
}

#[test]
fn a_state_of_another_model_or_rule_is_refused_by_name() {
    let mut params = model(Kind::Float);
    let mut optimizer = Optimizer::new(OptimizerConfig::adamw(1e-3), &mut params).unwrap();
    let refusal = |optimizer: &mut Optimizer, change: &dyn Fn(&mut _)| {
        let mut state = optimizer.state().unwrap();
        change(&mut state);
        optimizer.load_state(&state).unwrap_err().to_string()
    };
    let missing = refusal(&mut optimizer, &|state| {
        state.remove("norm.weight.exp_avg");
    });
    assert!(missing.contains("norm.weight.exp_avg: is missing"), "{missing}");
    let shape = refusal(&mut optimizer, &|state| {
        state.insert("norm.weight.exp_avg".into(), Tensor::from_slice(&[1.0f32]));
    });
    assert!(shape.contains("is Float [1], expected Float [8]"), "{shape}");
    let more = refusal(&mut optimizer, &|state| {
        state.insert("key.weight.momentum".into(), Tensor::from_slice(&[1.0f32]));
    });
    assert!(more.contains("key.weight.momentum: belongs to no parameter"), "{more}");
}

#[test]
fn steps_that_are_not_finite_change_nothing_and_end_the_run_in_a_row() {
    for mut config in configs() {
        config.max_skipped_in_a_row = 2;
        let mut params = model(Kind::BFloat16);
        let mut optimizer = Optimizer::new(config, &mut params).unwrap();
        run(&mut optimizer, &mut params, 0..1);
        let before: Vec<Tensor> =
            params.iter().map(|param| param.master_or_weight().copy()).collect();
        let bad = grads(&params, 1);
        let _ = bad[0].get(2).fill_(f64::NAN);
        let report = optimizer.step(&mut params, &bad, 1.0).unwrap();
        assert!(report.skipped && optimizer.skipped() == 1);
        assert!(params.iter().zip(&before).all(|(param, old)| param.master_or_weight().equal(old)));
        run(&mut optimizer, &mut params, 2..3);
        assert!(optimizer.step(&mut params, &bad, 1.0).unwrap().skipped);
        let error = optimizer.step(&mut params, &bad, 1.0).unwrap_err();
        assert!(matches!(error, Error::NonFinite { steps: 2 }), "{error}");
    }
}

#[test]
fn parameters_without_a_gradient_stay() {
    for config in configs() {
        let mut params = model(Kind::Float);
        if config.masters == Masters::Bf16Residual {
            params = model(Kind::BFloat16);
        }
        let mut optimizer = Optimizer::new(config, &mut params).unwrap();
        let before = params[0].weight.copy();
        let mut grads = grads(&params, 0);
        grads[0] = Tensor::new();
        optimizer.step(&mut params, &grads, 1.0).unwrap();
        assert!(params[0].weight.equal(&before));
    }
}

#[test]
fn clipping_leaves_muon_alone_unless_asked() {
    let step = |scope, factor: f64| {
        let mut config = OptimizerConfig::muon(0.02, 1e-3);
        config.clip = Some(ClipConfig { max_norm: 1.0, scope });
        let mut params = model(Kind::Float);
        let mut optimizer = Optimizer::new(config, &mut params).unwrap();
        let mut grads = grads(&params, 0);
        grads[0] = &grads[0] * factor;
        let report = optimizer.step(&mut params, &grads, 1.0).unwrap();
        let momentum = optimizer.state().unwrap()["query.weight.momentum_buffer"].copy();
        (report.clip_factor, momentum.equal(&(&grads[0] * (1.0 - 0.95))))
    };
    let (one, untouched) = step(ClipScope::Adamw, 1.0);
    assert!(one < 0.2 && untouched);
    assert_eq!(step(ClipScope::Adamw, 1e3), (one, true), "Muon's norm must not count");
    let (all, untouched) = step(ClipScope::All, 1e3);
    assert!(all < 1e-3 && !untouched);
}

#[test]
fn rules_go_by_role_and_by_name() {
    let rule = |assignments: &[(&str, UpdateRule)]| {
        let mut config = OptimizerConfig::muon(0.02, 1e-3);
        config.assignments = assignments
            .iter()
            .map(|&(names, rule)| Assignment { names: names.into(), rule })
            .collect();
        let mut params = model(Kind::Float);
        let optimizer = Optimizer::new(config, &mut params).map_err(|error| error.to_string())?;
        let state = optimizer.state().unwrap();
        let names = state.keys().filter_map(|key| key.strip_suffix(".weight.momentum_buffer"));
        Ok::<String, String>(names.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(rule(&[]).unwrap(), "key query value");
    assert_eq!(
        rule(&[("key*", UpdateRule::Adamw), ("words*", UpdateRule::Muon)]).unwrap(),
        "query value words"
    );
    assert!(rule(&[("nothing", UpdateRule::Adamw)]).unwrap_err().contains("matches no parameter"));
    assert!(rule(&[("norm*", UpdateRule::Muon)]).unwrap_err().contains("assign it to adamw"));
}

#[test]
fn configuration_is_read_and_what_can_not_act_is_refused() {
    let text = r#"
        [adamw]
        lr = 1e-4
        beta1 = 0.9
        beta2 = 0.98
        eps = 1e-6
        weight_decay = 0.01
        lr_scale = { embedding = 2.0 }
        [muon]
        lr = 0.02
        weight_decay = 0.1
        cautious = true
        nesterov = true
        scale = "match_rms_adamw"
        coefficients = { name = "polar_express", steps = 6 }
        momentum = { value = 0.95, warmup = { from = 0.85, steps = 300 } }
        normuon = { beta2 = 0.95, axis = "longer_side" }
        splits = [{ names = "*.qkv.weight", rows = { parts = 3 } }]
    "#;
    let config: OptimizerConfig = toml::from_str(text).unwrap();
    config.validate().unwrap();
    let refused = |from: &str, to: &str| {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        match toml::from_str::<OptimizerConfig>(&changed) {
            Ok(config) => config.validate().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    };
    assert!(refused("eps = 1e-6", "epsilon = 1e-6").contains("unknown field"));
    assert!(refused("beta2 = 0.98", "beta2 = 1.0").contains("adamw.beta2 = 1"));
    let bf16_gram =
        refused("nesterov = true", "nesterov = true\ncompute=\"bf16\"\niteration=\"gram\"");
    assert!(bf16_gram.contains("not safe in BF16"), "{bf16_gram}");
    let no_decay = refused("weight_decay = 0.1", "weight_decay = 0.0");
    assert!(no_decay.contains("no weight decay to be cautious with"), "{no_decay}");
}
