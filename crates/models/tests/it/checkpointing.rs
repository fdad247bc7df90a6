//! Blocks computed again give the same gradients, to the bit. T5's relative bias alone may be off
//! by rounding: libtorch's kernels sum its gradient over blocks before distances, or after.

use bert4rs_models::bert::{BertConfig, BertForMaskedLm, BertInput, LogitsOf, MlmLoss};
use bert4rs_models::checkpointing::ActivationCheckpointing;
use bert4rs_models::gpt::{Gpt, GptConfig, GptInput};
use bert4rs_models::layers::{NormKind, Rotary};
use bert4rs_models::loss::LossOptions;
use bert4rs_models::overrides::ArchitectureOverrides;
use bert4rs_models::t5::{T5, T5Config, T5Input, T5Size, T5Version};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::policy::{Kernels, Policy};
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::support::assert_close;

const VOCAB: i64 = 60;

fn ids(time: i64) -> Tensor {
    Tensor::arange(2 * time, (Kind::Int64, Device::Cpu)).view([2, time]).remainder(VOCAB)
}

/// Documents of two rows: a border in each.
fn documents(time: i64) -> Tensor {
    let place = Tensor::arange(time, (Kind::Int64, Device::Cpu));
    Tensor::stack(&[place.ge(5), place.ge(9)], 0).to_kind(Kind::Int64)
}

/// Settings of a model and its code.
fn cases() -> impl Iterator<Item = (ArchitectureOverrides, Kernels)> {
    [Kernels::Plain, Kernels::Fused]
        .into_iter()
        .flat_map(|kernels| overrides().into_iter().map(move |overrides| (overrides, kernels)))
}

fn overrides() -> [ArchitectureOverrides; 2] {
    let modern = ArchitectureOverrides {
        norm: Some(NormKind::Rms),
        rotary: Some(Rotary { theta: 10_000.0, yarn: None }),
        kv_heads: Some(2),
        qk_norm: true,
        ..ArchitectureOverrides::default()
    };
    [ArchitectureOverrides::default(), modern]
}

/// Gradients of `loss` in a store, computed in both ways.
fn check(what: &str, store: &ParamStore, mut loss: impl FnMut(ActivationCheckpointing) -> Tensor) {
    let weights: Vec<Tensor> =
        store.params().iter().map(|param| param.weight.shallow_clone()).collect();
    let mut run = |checkpointing: ActivationCheckpointing| {
        let loss = loss(checkpointing);
        let mut found = Tensor::run_backward(&[&loss], &weights, false, false);
        found.push(loss.detach());
        found
    };
    let (kept, again) = (run(ActivationCheckpointing::None), run(ActivationCheckpointing::Blocks));
    let names = store.params().iter().map(|param| param.name.clone()).collect::<Vec<_>>();
    for ((kept, again), name) in kept.iter().zip(&again).zip(names.iter().chain([&"loss".into()])) {
        assert_eq!(kept.defined(), again.defined(), "{what}: {name}");
        if name.ends_with("relative_attention_bias.weight") {
            assert_close(name, again, kept, 1e-6);
        } else {
            assert!(!kept.defined() || kept.equal(again), "{what}: {name}");
        }
    }
}

#[test]
fn bert() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (overrides, kernels) in cases() {
            let config = BertConfig {
                vocab_size: VOCAB,
                hidden_size: 64,
                num_hidden_layers: 3,
                num_attention_heads: 4,
                intermediate_size: 96,
                hidden_dropout_prob: 0.0,
                attention_probs_dropout_prob: 0.0,
                overrides,
                ..BertConfig::default()
            };
            let store = ParamStore::new(Device::Cpu, kind).with_policy(Policy::new(kernels, false));
            let mut model =
                BertForMaskedLm::new(&store.root(), &config, AttentionImplementation::Fused)
                    .unwrap();
            let (ids, mask) = (ids(24), documents(24));
            let positions = Tensor::from_slice(&[1i64, 7, 30]);
            let labels = Tensor::from_slice(&[3i64, 4, 5]);
            let how: MlmLoss = LogitsOf::MaskedOnly.into();
            check("BERT", &store, |checkpointing| {
                model.set_activation_checkpointing(checkpointing);
                let input = BertInput { mask: Some(&mask), ..BertInput::new(&ids) };
                model.mlm_loss(&input, &positions, &labels, how, true).unwrap()
            });
        }
    }
}

#[test]
fn gpt() {
    for (overrides, kernels) in cases() {
        let config = GptConfig {
            vocab_size: VOCAB,
            n_positions: 32,
            n_embd: 64,
            n_layer: 3,
            n_head: 4,
            resid_pdrop: 0.0,
            embd_pdrop: 0.0,
            attn_pdrop: 0.0,
            overrides,
            ..GptConfig::default()
        };
        let store =
            ParamStore::new(Device::Cpu, Kind::Float).with_policy(Policy::new(kernels, false));
        let mut model = Gpt::new(&store.root(), &config, AttentionImplementation::Fused).unwrap();
        let (ids, mask) = (ids(24), documents(24));
        check("GPT", &store, |checkpointing| {
            model.set_activation_checkpointing(checkpointing);
            let input = GptInput { mask: Some(&mask), ..GptInput::new(&ids) };
            model.lm_loss(&input, &ids, &LossOptions::default(), true).unwrap()
        });
    }
}

#[test]
fn t5() {
    for (overrides, kernels) in cases() {
        let config = T5Config {
            vocab_size: VOCAB,
            d_model: 64,
            d_kv: 16,
            d_ff: 96,
            num_layers: 2,
            num_heads: 4,
            dropout_rate: 0.0,
            overrides,
            ..T5Config::published(T5Version::V1_1, T5Size::Small)
        };
        let store =
            ParamStore::new(Device::Cpu, Kind::Float).with_policy(Policy::new(kernels, false));
        let mut model = T5::new(&store.root(), &config, AttentionImplementation::Fused).unwrap();
        let (ids, decoder_ids) = (ids(24), ids(11));
        check("T5", &store, |checkpointing| {
            model.set_activation_checkpointing(checkpointing);
            let input = T5Input::new(&ids, &decoder_ids);
            model.lm_loss(&input, &decoder_ids, &LossOptions::default(), true).unwrap()
        });
    }
}
