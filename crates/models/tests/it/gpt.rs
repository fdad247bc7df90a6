//! GPT against transformers' recorded results, and its own promises.

use std::collections::BTreeMap;

use bert4rs_models::gpt::{Gpt, GptCache, GptConfig, GptInput};
use bert4rs_models::layers::{AttentionBackend, FeedForwardKind, NormKind, Rotary, Yarn};
use bert4rs_models::loss::{IGNORED, Labels, LossOptions};
use bert4rs_models::mask;
use bert4rs_models::overrides::ArchitectureOverrides;
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor, random};

use crate::support::{Vectors, assert_close, assert_close_where, loss_options};

/// transformers keeps GPT-2's matrices as `[in, out]`.
fn as_stored_here(named: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let is_matrix = |name: &str| name.contains(".c_") && name.ends_with("weight");
    named
        .into_iter()
        .map(|(name, x)| if is_matrix(&name) { (name, x.transpose(0, 1)) } else { (name, x) })
        .collect()
}

fn check(vectors: &Vectors, config: &GptConfig, implementation: AttentionImplementation) {
    let mut store = ParamStore::new(Device::Cpu, Kind::Float);
    let model = Gpt::new(&store.root(), config, implementation).unwrap();
    vectors.set_weights(&mut store);
    let keep_bt = vectors.tensor("attention_mask");
    let padding = mask::padding(keep_bt);
    let ids = vectors.tensor("input_ids");
    let input = GptInput { mask: Some(&padding), ..GptInput::new(ids) };
    let hidden = model.forward(&input, false).unwrap();
    assert_close_where("hidden", &hidden, vectors.tensor("last_hidden_state"), keep_bt, 1e-5);
    let logits = model.logits(&hidden);
    assert_close_where("logits", &logits, vectors.tensor("logits"), keep_bt, 1e-5);
    let labels = vectors.tensor("labels");
    let loss = model.lm_loss(&input, labels, &loss_options(implementation), false).unwrap();
    assert_close("loss", &loss, vectors.tensor("loss"), 1e-5);
    loss.backward();
    vectors.check_grads(&store);
}

#[test]
fn logits_of_counted_places_give_the_loss_and_gradients_of_all() {
    let vectors = Vectors::load("gpt2").with_names(as_stored_here);
    let labels_bt = vectors.tensor("labels");
    let t = labels_bt.size()[1];
    let next_bt = labels_bt.roll([-1], [1]);
    let _ = next_bt.narrow(1, t - 1, 1).fill_(IGNORED);
    let counted = next_bt.flatten(0, 1).ne(IGNORED).nonzero().flatten(0, 1);
    assert!(counted.size()[0] < next_bt.numel() as i64);
    for counted in [None, Some(&counted)] {
        let mut store = ParamStore::new(Device::Cpu, Kind::Float);
        let config: GptConfig = vectors.config();
        let model = Gpt::new(&store.root(), &config, AttentionImplementation::Plain).unwrap();
        vectors.set_weights(&mut store);
        let padding = mask::padding(vectors.tensor("attention_mask"));
        let input = GptInput { mask: Some(&padding), ..GptInput::new(vectors.tensor("input_ids")) };
        let options = LossOptions::default();
        let next = Labels { counted_n: counted, ..(&next_bt).into() };
        let loss = model.next_token_loss(&input, next, &options, false).unwrap();
        assert_close("loss", &loss, vectors.tensor("loss"), 1e-5);
        loss.backward();
        vectors.check_grads(&store);
    }
}

#[test]
fn the_code_that_computed_attention_is_told() {
    let tier = |implementation, n_embd| {
        let store = ParamStore::new(Device::Cpu, Kind::Float);
        let config = GptConfig { n_embd, n_head: 2, n_layer: 1, attn_pdrop: 0.0, ..tiny() };
        let model = Gpt::new(&store.root(), &config, implementation).unwrap();
        assert_eq!(model.attention_backend(), None, "nothing was computed yet");
        let ids = Tensor::arange(6, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        model.forward(&GptInput::new(&ids), false).map(|_| model.attention_backend().unwrap())
    };
    assert_eq!(tier(AttentionImplementation::Plain, 64).unwrap(), AttentionBackend::Plain);
    assert_eq!(tier(AttentionImplementation::Math, 64).unwrap(), AttentionBackend::Math);
    assert_eq!(tier(AttentionImplementation::Own, 64).unwrap(), AttentionBackend::Own);
    assert_eq!(
        tier(AttentionImplementation::Fused, 32).unwrap(),
        AttentionBackend::Flash,
        "heads of 16 features"
    );
    let error = tier(AttentionImplementation::Own, 32).unwrap_err().to_string();
    assert!(error.contains("compute.attention") && error.contains("32 features"), "{error}");
}

#[test]
fn gpt2_equals_transformers() {
    let vectors = Vectors::load("gpt2").with_names(as_stored_here);
    check(&vectors, &vectors.config(), AttentionImplementation::Plain);
    check(&vectors, &vectors.config(), AttentionImplementation::Fused);
}

/// Qwen3 is our GPT with overrides: RMS norm, SwiGLU, RoPE with YaRN, QK-norm, grouped heads,
/// windows, no biases.
#[test]
fn overrides_equal_transformers() {
    let vectors = Vectors::load("qwen3").with_names(qwen3_as_gpt);
    let yarn = Yarn {
        factor: 4.0,
        original_max_position_embeddings: 16,
        beta_fast: 4.0,
        beta_slow: 0.5,
        attention_factor: None,
    };
    let config = GptConfig {
        vocab_size: 23,
        n_embd: 16,
        n_layer: 1,
        n_head: 2,
        n_inner: Some(20),
        layer_norm_epsilon: 1e-6,
        overrides: ArchitectureOverrides {
            norm: Some(NormKind::Rms),
            feed_forward: Some(FeedForwardKind::SwiGlu),
            rotary: Some(Rotary { theta: 100.0, yarn: Some(yarn) }),
            kv_heads: Some(1),
            window: Some(7),
            qk_norm: true,
            no_biases: true,
            ..ArchitectureOverrides::default()
        },
        ..GptConfig::default()
    };
    check(&vectors, &config, AttentionImplementation::Plain);
    check(&vectors, &config, AttentionImplementation::Fused);
}

fn qwen3_as_gpt(named: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let layer = |name: &str| &named[&format!("model.layers.0.{name}.weight")];
    let joint = Tensor::cat(
        &[layer("self_attn.q_proj"), layer("self_attn.k_proj"), layer("self_attn.v_proj")],
        0,
    );
    let parts = [
        ("attn.query_norm", layer("self_attn.q_norm")),
        ("attn.key_norm", layer("self_attn.k_norm")),
        ("attn.c_attn", &joint),
        ("attn.c_proj", layer("self_attn.o_proj")),
        ("mlp.c_gate", layer("mlp.gate_proj")),
        ("mlp.c_fc", layer("mlp.up_proj")),
        ("mlp.c_proj", layer("mlp.down_proj")),
        ("ln_1", layer("input_layernorm")),
        ("ln_2", layer("post_attention_layernorm")),
    ];
    let mut renamed = BTreeMap::new();
    for (name, x) in parts {
        renamed.insert(format!("transformer.h.0.{name}.weight"), x.shallow_clone());
    }
    let table = named["model.embed_tokens.weight"].shallow_clone();
    renamed.insert("transformer.wte.weight".into(), table);
    renamed.insert("transformer.ln_f.weight".into(), named["model.norm.weight"].shallow_clone());
    renamed
}

fn tiny() -> GptConfig {
    GptConfig {
        vocab_size: 50,
        n_positions: 24,
        n_embd: 32,
        n_layer: 2,
        n_head: 4,
        ..GptConfig::default()
    }
}

fn ids(rows: i64, time: i64) -> Tensor {
    Tensor::randint(50, [rows, time], (Kind::Int64, Device::Cpu))
}

#[test]
fn cached_steps_equal_one_pass() {
    random::seed(1);
    let windowed = ArchitectureOverrides {
        window: Some(5),
        rotary: Some(rotary()),
        ..ArchitectureOverrides::default()
    };
    for overrides in [ArchitectureOverrides::default(), windowed] {
        let config = GptConfig { overrides, ..tiny() };
        let store = ParamStore::new(Device::Cpu, Kind::Float);
        let model = Gpt::new(&store.root(), &config, AttentionImplementation::Fused).unwrap();
        let ids = ids(2, 19);
        let whole = model.forward(&GptInput::new(&ids), false).unwrap();
        let mut cache = GptCache::default();
        let steps: Vec<_> = [(0, 7), (7, 1), (8, 4), (12, 7)]
            .map(|(start, count)| ids.narrow(1, start, count))
            .iter()
            .map(|ids| model.forward_cached(&GptInput::new(ids), &mut cache).unwrap())
            .collect();
        assert_eq!(cache.len(), 19);
        assert_close("cached", &Tensor::cat(&steps, 1), &whole, 2e-6);
    }
}

fn rotary() -> Rotary {
    Rotary { theta: 10_000.0, yarn: None }
}

#[test]
fn wrong_configurations_name_key_and_value() {
    let check = |config: GptConfig, words: &[&str]| {
        let text = config.validate().unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let with = |overrides| GptConfig { overrides, ..tiny() };
    check(GptConfig { n_head: 5, ..tiny() }, &["n_head = 5", "n_embd = 32"]);
    check(GptConfig { n_inner: Some(0), ..tiny() }, &["n_inner = 0"]);
    check(
        with(ArchitectureOverrides { kv_heads: Some(3), ..ArchitectureOverrides::default() }),
        &["kv_heads = 3", "4"],
    );
    check(
        with(ArchitectureOverrides { window: Some(0), ..ArchitectureOverrides::default() }),
        &["window = 0"],
    );
    let cap = Some(-1.0);
    check(
        with(ArchitectureOverrides { logit_soft_cap: cap, ..ArchitectureOverrides::default() }),
        &["logit_soft_cap = -1"],
    );
    let odd = GptConfig {
        n_embd: 12,
        ..with(ArchitectureOverrides { rotary: Some(rotary()), ..ArchitectureOverrides::default() })
    };
    check(odd, &["head size = 3", "even"]);
    let theta = Rotary { theta: 0.5, yarn: None };
    check(
        with(ArchitectureOverrides { rotary: Some(theta), ..ArchitectureOverrides::default() }),
        &["theta = 0.5"],
    );
}
