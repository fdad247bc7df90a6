//! Models with our own kernels give the loss and gradients of libtorch's operations.

use bert4rs_models::bert::{BertConfig, BertForMaskedLm, BertInput, LogitsOf};
use bert4rs_models::layers::{NormKind, Placement, Rotary};
use bert4rs_models::overrides::ArchitectureOverrides;
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::policy::{Kernels, Policy};
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::support::copy_weights;

/// The gradients of all weights, the loss, and where the weights are.
fn run(
    config: &BertConfig,
    kernels: Kernels,
    like: Option<&ParamStore>,
) -> (ParamStore, Vec<Tensor>) {
    let kind = Kind::Float;
    let mut store = ParamStore::new(Device::Cpu, kind).with_policy(Policy::new(kernels, false));
    let model =
        BertForMaskedLm::new(&store.root(), config, AttentionImplementation::Plain).unwrap();
    if let Some(like) = like {
        copy_weights(like, &mut store);
    }
    let ids = Tensor::arange(48, (Kind::Int64, Device::Cpu)).view([2, 24]);
    let (places, labels) = (Tensor::from_slice(&[1i64, 7, 30]), Tensor::from_slice(&[3i64, 4, 5]));
    let input = BertInput::new(&ids);
    let loss = model.mlm_loss(&input, &places, &labels, LogitsOf::MaskedOnly, true).unwrap();
    let weights: Vec<Tensor> = store.params().iter().map(|p| p.weight.shallow_clone()).collect();
    let mut found = Tensor::run_backward(&[&loss], &weights, false, false);
    found.push(loss.detach());
    (store, found)
}

/// A small BERT with these overrides, by our kernels and without.
#[track_caller]
fn check(overrides: ArchitectureOverrides) {
    let config = BertConfig {
        vocab_size: 60,
        hidden_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 96,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        overrides,
        ..BertConfig::default()
    };
    let (store, expected) = run(&config, Kernels::Plain, None);
    let (_, found) = run(&config, Kernels::Fused, Some(&store));
    for (found, expected) in found.iter().zip(&expected).filter(|(x, _)| x.defined()) {
        let error = (found - expected).abs().max().double_value(&[]);
        let greatest = expected.abs().max().double_value(&[]);
        assert!(error <= 1e-5 * greatest + 1e-8, "{overrides:?}: off by {error}");
    }
}

#[test]
fn kernels_of_norms_change_no_gradient() {
    for placement in [Placement::Post, Placement::Pre] {
        for norm in [NormKind::Layer, NormKind::Rms] {
            check(ArchitectureOverrides {
                norm: Some(norm),
                norm_placement: Some(placement),
                ..ArchitectureOverrides::default()
            });
        }
    }
}

#[test]
fn kernels_of_heads_change_no_gradient() {
    let rotary = Rotary { theta: 10_000.0, yarn: None };
    for qk_norm in [false, true] {
        for rotary in [None, Some(rotary)] {
            check(ArchitectureOverrides { qk_norm, rotary, ..ArchitectureOverrides::default() });
        }
    }
}
