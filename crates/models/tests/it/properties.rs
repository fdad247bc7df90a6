//! What holds for all shapes, masks and overrides.

use bert4rs_models::bert::{BertConfig, BertForMaskedLm, BertInput};
use bert4rs_models::gpt::{Gpt, GptCache, GptConfig, GptInput};
use bert4rs_models::layers::{FeedForwardKind, NormKind, Placement, Rotary, Yarn};
use bert4rs_models::mask;
use bert4rs_models::overrides::ArchitectureOverrides;
use bert4rs_models::t5::{T5, T5Config, T5Input};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor, random};
use proptest::prelude::*;

use crate::support::{copy_weights, max_abs};

const VOCAB: i64 = 40;

pub(crate) fn bert(overrides: ArchitectureOverrides) -> BertConfig {
    BertConfig {
        vocab_size: VOCAB,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 24,
        max_position_embeddings: 32,
        overrides,
        ..BertConfig::default()
    }
}

pub(crate) fn gpt(overrides: ArchitectureOverrides) -> GptConfig {
    GptConfig {
        vocab_size: VOCAB,
        n_positions: 32,
        n_embd: 16,
        n_layer: 2,
        n_head: 4,
        overrides,
        ..GptConfig::default()
    }
}

pub(crate) fn t5(overrides: ArchitectureOverrides) -> T5Config {
    T5Config {
        vocab_size: VOCAB,
        d_model: 16,
        d_kv: 4,
        d_ff: 24,
        num_layers: 2,
        num_heads: 4,
        relative_attention_num_buckets: 8,
        relative_attention_max_distance: 12,
        overrides,
        ..T5Config::default()
    }
}

fn ids(rows: i64, time: i64) -> Tensor {
    Tensor::randint(VOCAB - 1, [rows, time], (Kind::Int64, Device::Cpu)) + 1
}

/// FP64, so that what is left is the noise of statistics that are FP32 in every dtype.
fn store() -> ParamStore {
    ParamStore::new(Device::Cpu, Kind::Double)
}

/// Larger than at the start, so that attention is far from uniform.
pub(crate) fn sharpen(store: &mut ParamStore) {
    for param in store.params_mut() {
        let noise = param.weight.randn_like() * 0.2;
        param.set(&(param.weight.detach() + noise)).unwrap();
    }
}

fn assert_same(what: &str, found: &Tensor, want: &Tensor) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.size(), want.size());
    let off = max_abs(&(found - want));
    prop_assert!(off < 1e-4, "{} differ by {:.1e}", what, off);
    Ok(())
}

fn implementation() -> impl Strategy<Value = AttentionImplementation> {
    prop_oneof![Just(AttentionImplementation::Plain), Just(AttentionImplementation::Fused)]
}

/// Any overrides that all families take.
pub(crate) fn overrides() -> impl Strategy<Value = ArchitectureOverrides> {
    let norm = prop::option::of(prop_oneof![Just(NormKind::Layer), Just(NormKind::Rms)]);
    let placement = prop::option::of(prop_oneof![Just(Placement::Post), Just(Placement::Pre)]);
    let feed_forward = prop::option::of(prop_oneof![
        Just(FeedForwardKind::ReluSquared),
        Just(FeedForwardKind::SwiGlu),
        Just(FeedForwardKind::GeGlu),
    ]);
    let yarn = prop::option::of((1.0..8.0f64).prop_map(|factor| Yarn {
        factor,
        original_max_position_embeddings: 8,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: None,
    }));
    let rotary = prop::option::of(yarn.prop_map(|yarn| Rotary { theta: 100.0, yarn }));
    let groups = prop::option::of(prop_oneof![Just(1i64), Just(2), Just(4)]);
    let window = prop::option::of(1i64..9);
    let cap = prop::option::of(1.0..30.0f64);
    let all = (norm, placement, feed_forward, rotary, groups, window, any::<bool>(), cap);
    all.prop_map(|(norm, norm_placement, feed_forward, rotary, kv_heads, window, qk_norm, cap)| {
        ArchitectureOverrides {
            norm,
            norm_placement,
            feed_forward,
            rotary,
            kv_heads,
            window,
            qk_norm,
            logit_soft_cap: cap,
            ..ArchitectureOverrides::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn gpt_never_looks_ahead(
        seed in any::<u64>(), overrides in overrides(), with in implementation(),
        time in 2i64..20, cut in 1i64..19,
    ) {
        prop_assume!(cut < time);
        random::seed(seed);
        let mut store = store();
        let model = Gpt::new(&store.root(), &gpt(overrides), with).unwrap();
        sharpen(&mut store);
        let first = ids(2, time);
        let second = Tensor::cat(&[first.narrow(1, 0, cut), ids(2, time - cut)], 1);
        let run = |ids: &Tensor| {
            model.logits(&model.forward(&GptInput::new(ids), false).unwrap()).narrow(1, 0, cut)
        };
        assert_same("logits before the change", &run(&first), &run(&second))?;
    }

    #[test]
    fn the_decoder_of_t5_never_looks_ahead(
        seed in any::<u64>(), overrides in overrides(), with in implementation(),
        time in 2i64..14, cut in 1i64..13,
    ) {
        prop_assume!(cut < time);
        random::seed(seed);
        let mut store = store();
        let model = T5::new(&store.root(), &t5(overrides), with).unwrap();
        sharpen(&mut store);
        let (source, first) = (ids(2, 9), ids(2, time));
        let second = Tensor::cat(&[first.narrow(1, 0, cut), ids(2, time - cut)], 1);
        let run = |ids: &Tensor| {
            model.forward(&T5Input::new(&source, ids), false).unwrap().narrow(1, 0, cut)
        };
        assert_same("hidden states before the change", &run(&first), &run(&second))?;
    }

    #[test]
    fn packed_documents_equal_documents_apart(
        seed in any::<u64>(), overrides in overrides(), with in implementation(),
        lengths in (1i64..12, 1i64..12),
    ) {
        random::seed(seed);
        let (first, second) = (ids(1, lengths.0), ids(1, lengths.1));
        let packed = Tensor::cat(&[&first, &second], 1);
        let place = (Kind::Int64, Device::Cpu);
        let (a, b) = (Tensor::arange(lengths.0, place), Tensor::arange(lengths.1, place));
        let positions = Tensor::cat(&[&a, &b], 0).unsqueeze(0);
        let document = Tensor::cat(&[a.zeros_like(), b.ones_like()], 0).unsqueeze(0);
        let seen = mask::documents(&document);

        let mut bert_store = store();
        let model = BertForMaskedLm::new(&bert_store.root(), &bert(overrides), with).unwrap();
        sharpen(&mut bert_store);
        let apart = |ids: &Tensor| model.encode(&BertInput::new(ids), false).unwrap();
        let input = BertInput {
            position_ids: Some(&positions), mask: Some(&seen), ..BertInput::new(&packed)
        };
        let together = model.encode(&input, false).unwrap();
        assert_same("BERT", &together, &Tensor::cat(&[apart(&first), apart(&second)], 1))?;

        let mut gpt_store = store();
        let model = Gpt::new(&gpt_store.root(), &gpt(overrides), with).unwrap();
        sharpen(&mut gpt_store);
        let apart = |ids: &Tensor| model.forward(&GptInput::new(ids), false).unwrap();
        let input = GptInput {
            input_ids: &packed, position_ids: Some(&positions), mask: Some(&seen),
        };
        let together = model.forward(&input, false).unwrap();
        assert_same("GPT", &together, &Tensor::cat(&[apart(&first), apart(&second)], 1))?;
    }

    #[test]
    fn padding_does_not_change_real_tokens(
        seed in any::<u64>(), overrides in overrides(), with in implementation(),
        time in 1i64..12, left in 0i64..6, right in 0i64..6,
    ) {
        random::seed(seed);
        let real = ids(2, time);
        let pads = |count: i64| Tensor::zeros([2, count], (Kind::Int64, Device::Cpu));
        let padded = Tensor::cat(&[pads(left), real.shallow_clone(), pads(right)], 1);
        let seen = mask::padding(&padded.ne(0));
        let total = left + time + right;
        let place = (Kind::Int64, Device::Cpu);
        let positions = (Tensor::arange(total, place) - left).clamp_min(0).unsqueeze(0);

        let mut bert_store = store();
        let model = BertForMaskedLm::new(&bert_store.root(), &bert(overrides), with).unwrap();
        sharpen(&mut bert_store);
        let input = BertInput {
            position_ids: Some(&positions), mask: Some(&seen), ..BertInput::new(&padded)
        };
        let found = model.encode(&input, false).unwrap().narrow(1, left, time);
        assert_same("BERT", &found, &model.encode(&BertInput::new(&real), false).unwrap())?;

        let mut gpt_store = store();
        let model = Gpt::new(&gpt_store.root(), &gpt(overrides), with).unwrap();
        sharpen(&mut gpt_store);
        let input = GptInput {
            input_ids: &padded, position_ids: Some(&positions), mask: Some(&seen),
        };
        let found = model.forward(&input, false).unwrap().narrow(1, left, time);
        assert_same("GPT", &found, &model.forward(&GptInput::new(&real), false).unwrap())?;

        let mut t5_store = store();
        let model = T5::new(&t5_store.root(), &t5(overrides), with).unwrap();
        sharpen(&mut t5_store);
        let input = T5Input {
            mask: Some(&seen), decoder_mask: Some(&seen), cross_mask: Some(&seen),
            ..T5Input::new(&padded, &padded)
        };
        let found = model.forward(&input, false).unwrap().narrow(1, left, time);
        assert_same("T5", &found, &model.forward(&T5Input::new(&real, &real), false).unwrap())?;
    }

    #[test]
    fn cached_gpt_equals_uncached(
        seed in any::<u64>(), overrides in overrides(), with in implementation(),
        chunks in prop::collection::vec(1i64..5, 1..6),
    ) {
        random::seed(seed);
        let mut store = store();
        let model = Gpt::new(&store.root(), &gpt(overrides), with).unwrap();
        sharpen(&mut store);
        let ids = ids(2, chunks.iter().sum());
        let whole = model.forward(&GptInput::new(&ids), false).unwrap();
        let (mut cache, mut steps) = (GptCache::default(), Vec::new());
        for chunk in chunks {
            let next = ids.narrow(1, cache.len(), chunk);
            steps.push(model.forward_cached(&GptInput::new(&next), &mut cache).unwrap());
        }
        assert_same("hidden states", &Tensor::cat(&steps, 1), &whole)?;
    }

    #[test]
    fn zero_outputs_start_as_the_identity(seed in any::<u64>(), more in overrides()) {
        random::seed(seed);
        let overrides = ArchitectureOverrides {
            zero_init_outputs: true, norm_placement: Some(Placement::Pre), ..more
        };
        let one = GptConfig { n_layer: 1, ..gpt(overrides) };
        let (mut few, many) = (store(), store());
        let ids = ids(2, 7);
        let shallow = Gpt::new(&few.root(), &one, AttentionImplementation::Fused).unwrap();
        let deep = Gpt::new(&many.root(), &gpt(overrides), AttentionImplementation::Fused).unwrap();
        copy_weights(&many, &mut few);
        let run = |model: &Gpt| model.forward(&GptInput::new(&ids), false).unwrap();
        assert_same("hidden states", &run(&shallow), &run(&deep))?;
    }
}
