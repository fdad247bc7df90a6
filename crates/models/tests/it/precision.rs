//! BF16 against FP32: the same weights, the same inputs.

#![expect(clippy::print_stdout, reason = "shows measured deviations with --nocapture")]

use bert4rs_models::bert::{BertConfig, BertForMaskedLm, BertInput};
use bert4rs_models::gpt::{Gpt, GptConfig, GptInput};
use bert4rs_models::layers::{FeedForwardKind, NormKind, Rotary};
use bert4rs_models::overrides::ArchitectureOverrides;
use bert4rs_models::t5::{T5, T5Config, T5Input, T5Size, T5Version};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::support::copy_weights;

const VOCAB: i64 = 500;

/// Makes a model in a store, and a run of it.
type Made = Box<dyn Fn() -> Tensor>;

/// Runs a model in both dtypes with the same weights; the norm of the difference of results over
/// the norm of the result is to be below 2e-2.
fn check(what: &str, make: impl Fn(&ParamStore, AttentionImplementation) -> Made) {
    for implementation in [AttentionImplementation::Plain, AttentionImplementation::Fused] {
        let exact = ParamStore::new(Device::Cpu, Kind::Float);
        let mut rounded = ParamStore::new(Device::Cpu, Kind::BFloat16);
        let run_exact = make(&exact, implementation);
        let run_rounded = make(&rounded, implementation);
        copy_weights(&exact, &mut rounded);
        let (exact, rounded) = (run_exact(), run_rounded());
        assert_eq!(rounded.kind(), Kind::BFloat16);
        let exact = exact.to_kind(Kind::Double);
        let off = (rounded.to_kind(Kind::Double) - &exact).norm() / exact.norm();
        let off = off.double_value(&[]);
        println!("{what}, {implementation:?}: {off:.1e} relative");
        assert!(off < 2e-2, "{what}, {implementation:?}: off by {off:.1e}");
    }
}

fn ids(time: i64) -> Tensor {
    Tensor::arange(2 * time, (Kind::Int64, Device::Cpu)).view([2, time]).remainder(VOCAB)
}

fn modern() -> ArchitectureOverrides {
    ArchitectureOverrides {
        norm: Some(NormKind::Rms),
        feed_forward: Some(FeedForwardKind::SwiGlu),
        rotary: Some(Rotary { theta: 10_000.0, yarn: None }),
        kv_heads: Some(2),
        qk_norm: true,
        ..ArchitectureOverrides::default()
    }
}

#[test]
fn bf16_is_near_fp32() {
    let ids = ids(37);
    for overrides in [ArchitectureOverrides::default(), modern()] {
        let small = BertConfig {
            vocab_size: VOCAB,
            hidden_size: 128,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            intermediate_size: 256,
            overrides,
            ..BertConfig::default()
        };
        check("BERT", |store, implementation| {
            let model = BertForMaskedLm::new(&store.root(), &small, implementation).unwrap();
            let ids = ids.shallow_clone();
            Box::new(move || model.encode(&BertInput::new(&ids), false).unwrap())
        });
        let small = GptConfig {
            vocab_size: VOCAB,
            n_embd: 128,
            n_layer: 4,
            n_head: 4,
            overrides,
            ..GptConfig::default()
        };
        check("GPT", |store, implementation| {
            let model = Gpt::new(&store.root(), &small, implementation).unwrap();
            let ids = ids.shallow_clone();
            Box::new(move || model.forward(&GptInput::new(&ids), false).unwrap())
        });
    }
    for version in [T5Version::V1_0, T5Version::V1_1] {
        let small = T5Config {
            vocab_size: VOCAB,
            d_model: 128,
            d_kv: 32,
            d_ff: 256,
            num_layers: 4,
            num_heads: 4,
            ..T5Config::published(version, T5Size::Small)
        };
        check("T5", |store, implementation| {
            let model = T5::new(&store.root(), &small, implementation).unwrap();
            let ids = ids.shallow_clone();
            Box::new(move || model.forward(&T5Input::new(&ids, &ids), false).unwrap())
        });
    }
}
