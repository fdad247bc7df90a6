//! Training with FP8 products, emulated on the CPU, against BF16.

use bert4rs_models::bert::{BertConfig, BertForMaskedLm, BertInput};
use bert4rs_models::loss;
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::fp8::{Fp8Config, Fp8Mode};
use bert4rs_tensor_core::param::{ParamStore, Role};
use bert4rs_tensor_core::{Device, Kind, Tensor, no_grad, random};

const STEPS: usize = 25;

fn config(scaling: Fp8Mode) -> Fp8Config {
    Fp8Config { scaling, heads: false, skip: Vec::new() }
}

fn small() -> BertConfig {
    BertConfig {
        vocab_size: 128,
        hidden_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 128,
        max_position_embeddings: 32,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        ..BertConfig::default()
    }
}

/// Learns to tell a fixed batch's next token from its own, by steps along the gradient's sign;
/// the loss at each step.
fn losses(fp8: Fp8Config) -> Vec<f64> {
    random::seed(7);
    let mut store = ParamStore::new(Device::Cpu, Kind::BFloat16).with_fp8(fp8);
    let model =
        BertForMaskedLm::new(&store.root(), &small(), AttentionImplementation::Plain).unwrap();
    let ids = Tensor::randint(128, [4, 32], (Kind::Int64, Device::Cpu));
    let labels = ids.roll([1i64].as_slice(), [1i64].as_slice()).view(-1);
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        let hidden = model.encode(&BertInput::new(&ids), true).unwrap();
        let logits = model.logits(&hidden).unwrap().view([-1, 128]);
        let loss = loss::cross_entropy(&logits, &labels);
        losses.push(f64::try_from(&loss).unwrap());
        loss.backward();
        no_grad(|| {
            for param in store.params_mut().iter_mut() {
                let step = param.weight.grad().to_kind(Kind::Float).sign() * -2e-3;
                let moved = param.master_or_weight() + step;
                param.set(&moved).unwrap();
                param.weight.zero_grad();
            }
        });
    }
    losses
}

#[test]
fn the_loss_falls_as_it_does_in_bf16() {
    let plain = losses(Fp8Config::default());
    println!("BF16: {:.3} to {:.3}", plain[0], plain[STEPS - 1]);
    assert!(plain[STEPS - 1] < 0.6 * plain[0]);
    for scaling in [Fp8Mode::Tensor, Fp8Mode::Delayed, Fp8Mode::Row] {
        let fp8 = losses(config(scaling));
        println!("FP8 {scaling:?}: {:.3} to {:.3}", fp8[0], fp8[STEPS - 1]);
        assert_ne!(fp8[1], plain[1], "{scaling:?} changes nothing");
        for (step, (fp8, plain)) in fp8.iter().zip(&plain).enumerate() {
            let off = (fp8 - plain).abs();
            assert!(off < 0.1 + 0.05 * plain, "{scaling:?}, step {step}: {fp8} for {plain}");
        }
    }
}

#[test]
fn hidden_matrices_take_part_and_what_is_asked_for() {
    let takes_part = |config: &Fp8Config| -> Vec<String> {
        let store = ParamStore::new(Device::Cpu, Kind::BFloat16);
        BertForMaskedLm::new(&store.root(), &small(), AttentionImplementation::Plain).unwrap();
        let params = store.params();
        let taking =
            params.iter().filter(|param| config.scaling_of(&param.name, param.role).is_some());
        taking.map(|param| param.name.clone()).collect()
    };
    let all = takes_part(&config(Fp8Mode::Tensor));
    assert!(all.contains(&"bert.encoder.layer.0.attention.self.query.weight".to_owned()));
    assert!(all.iter().all(|name| name.ends_with("weight") && !name.contains("embeddings")));
    let skip = vec!["layer.1.".to_owned()];
    let first = takes_part(&Fp8Config { skip, ..config(Fp8Mode::Tensor) });
    assert!(!first.is_empty() && first.len() < all.len());
    assert!(first.iter().all(|name| !name.contains("layer.1.")));
    let heads = Fp8Config { heads: true, ..config(Fp8Mode::Row) };
    assert!(heads.scaling_of("lm_head.weight", Role::Head).is_some());
    assert!(config(Fp8Mode::Row).scaling_of("lm_head.weight", Role::Head).is_none());
    assert!(heads.scaling_of("wte.weight", Role::Embedding).is_none());
}

#[test]
fn weights_and_their_names_are_the_same_with_fp8() {
    let names = |fp8| {
        let store = ParamStore::new(Device::Cpu, Kind::BFloat16).with_fp8(fp8);
        BertForMaskedLm::new(&store.root(), &small(), AttentionImplementation::Plain).unwrap();
        let params = store.params();
        params
            .iter()
            .map(|p| (p.name.clone(), p.weight.size(), p.weight.kind()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(Fp8Config::default()), names(config(Fp8Mode::Row)));
}
