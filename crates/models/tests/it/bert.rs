//! BERT against transformers' recorded results, and its own promises.

use bert4rs_models::bert::{BertConfig, BertForMaskedLm, BertInput, BertSize, LogitsOf};
use bert4rs_models::{hugging_face, loss, mask};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor, random};

use crate::support::{Vectors, assert_close, max_abs};

/// The places of labels in the flattened batch, and the labels there.
fn masked(labels: &Tensor) -> (Tensor, Tensor) {
    let labels = labels.flatten(0, -1);
    let positions = labels.ne(loss::IGNORED).nonzero().squeeze_dim(1);
    let chosen = labels.index_select(0, &positions);
    (positions, chosen)
}

fn check_against_transformers(implementation: AttentionImplementation, logits_of: LogitsOf) {
    let vectors = Vectors::load("bert");
    let config: BertConfig = vectors.config();
    let mut store = ParamStore::new(Device::Cpu, Kind::Float);
    let model = BertForMaskedLm::new(&store.root(), &config, implementation).unwrap();
    vectors.set_weights(&mut store);
    let keep = mask::padding(vectors.tensor("attention_mask"));
    let input = BertInput {
        token_type_ids: Some(vectors.tensor("token_type_ids")),
        mask: Some(&keep),
        ..BertInput::new(vectors.tensor("input_ids"))
    };
    let hidden = model.encode(&input, false).unwrap();
    assert_close("hidden states", &hidden, vectors.tensor("last_hidden_state"), 1e-5);
    assert_close("logits", &model.logits(&hidden).unwrap(), vectors.tensor("logits"), 1e-5);
    let (positions, labels) = masked(vectors.tensor("labels"));
    let loss = model.mlm_loss(&input, &positions, &labels, logits_of, false).unwrap();
    assert_close("loss", &loss, vectors.tensor("loss"), 1e-5);
    loss.backward();
    vectors.check_grads(&store);
}

#[test]
fn equals_transformers_with_plain_attention_and_all_logits() {
    check_against_transformers(AttentionImplementation::Plain, LogitsOf::AllTokens);
}

#[test]
fn equals_transformers_with_fused_attention_and_masked_logits() {
    check_against_transformers(AttentionImplementation::Fused, LogitsOf::MaskedOnly);
}

fn tiny() -> BertConfig {
    BertConfig {
        vocab_size: 50,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 48,
        max_position_embeddings: 24,
        ..BertConfig::default()
    }
}

fn ids(rows: i64, time: i64) -> Tensor {
    Tensor::randint(49, [rows, time], (Kind::Int64, Device::Cpu)) + 1
}

#[test]
fn logits_of_masked_tokens_give_the_loss_and_gradients_of_all_logits() {
    random::seed(1);
    let store = ParamStore::new(Device::Cpu, Kind::Double);
    let model =
        BertForMaskedLm::new(&store.root(), &tiny(), AttentionImplementation::Plain).unwrap();
    let (ids, labels) = (ids(3, 17), ids(1, 5).flatten(0, 1));
    let positions = Tensor::from_slice(&[0i64, 3, 17, 30, 50]);
    let mut seen = Vec::new();
    for logits_of in [LogitsOf::AllTokens, LogitsOf::MaskedOnly] {
        let loss =
            model.mlm_loss(&BertInput::new(&ids), &positions, &labels, logits_of, false).unwrap();
        loss.backward();
        let grads: Vec<_> = store.params().iter().map(|param| param.weight.grad().copy()).collect();
        store.params().iter().for_each(|param| param.weight.shallow_clone().zero_grad());
        seen.push((loss, grads));
    }
    assert_close("loss", &seen[0].0, &seen[1].0, 1e-12);
    for ((all, masked), param) in seen[0].1.iter().zip(&seen[1].1).zip(store.params().iter()) {
        assert_close(&param.name, all, masked, 1e-12);
        assert!(max_abs(all) > 0.0 || param.name.ends_with("key.bias"), "{}", param.name);
    }
}

#[test]
fn dropout_acts_in_training_alone() {
    random::seed(2);
    let store = ParamStore::new(Device::Cpu, Kind::Float);
    let model =
        BertForMaskedLm::new(&store.root(), &tiny(), AttentionImplementation::Plain).unwrap();
    let ids = ids(2, 9);
    let run = |train| model.encode(&BertInput::new(&ids), train).unwrap();
    assert_eq!(run(false), run(false));
    assert!(max_abs(&(run(true) - run(true))) > 1e-3);
}

#[test]
fn starts_as_published() {
    random::seed(3);
    let store = ParamStore::new(Device::Cpu, Kind::Float);
    let config = BertConfig { vocab_size: 5000, ..tiny() };
    let _model =
        BertForMaskedLm::new(&store.root(), &config, AttentionImplementation::Fused).unwrap();
    for param in store.params().iter() {
        let (mean, std) = (param.weight.mean(None).double_value(&[]), param.weight.std(false));
        match param.name.rsplit('.').next() {
            Some("bias") => assert_eq!(max_abs(&param.weight), 0.0, "{}", param.name),
            _ if param.name.contains("LayerNorm") => assert_eq!(mean, 1.0, "{}", param.name),
            _ => assert!((std.double_value(&[]) - 0.02).abs() < 4e-3, "{}", param.name),
        }
    }
}

#[test]
fn loss_is_fp32_with_bf16_weights() {
    random::seed(4);
    let store = ParamStore::new(Device::Cpu, Kind::BFloat16);
    let config =
        BertConfig { hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0, ..tiny() };
    let model =
        BertForMaskedLm::new(&store.root(), &config, AttentionImplementation::Fused).unwrap();
    let (ids, positions) = (ids(2, 9), Tensor::from_slice(&[1i64, 12]));
    let labels = Tensor::from_slice(&[7i64, 8]);
    let input = BertInput::new(&ids);
    let loss = model.mlm_loss(&input, &positions, &labels, LogitsOf::MaskedOnly, true).unwrap();
    assert_eq!(loss.kind(), Kind::Float);
    loss.backward();
    assert!(store.params().iter().all(|param| param.weight.grad().kind() == Kind::BFloat16));
}

#[test]
fn wrong_configurations_name_key_and_value() {
    let check = |config: BertConfig, words: &[&str]| {
        let text = config.validate().unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    check(BertConfig { num_attention_heads: 5, ..tiny() }, &["num_attention_heads", "5", "32"]);
    check(BertConfig { vocab_size: 0, ..tiny() }, &["vocab_size", "0"]);
    check(BertConfig { hidden_dropout_prob: 1.0, ..tiny() }, &["hidden_dropout_prob", "1"]);
    check(BertConfig { layer_norm_eps: f64::NAN, ..tiny() }, &["layer_norm_eps", "NaN"]);
    check(BertConfig { pad_token_id: Some(50), ..tiny() }, &["pad_token_id", "50"]);
}

#[test]
fn wrong_inputs_are_errors() {
    let store = ParamStore::new(Device::Cpu, Kind::Float);
    let model =
        BertForMaskedLm::new(&store.root(), &tiny(), AttentionImplementation::Fused).unwrap();
    let check = |input: &BertInput, words: &[&str]| {
        let text = model.encode(input, false).unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let good = ids(2, 9);
    check(&BertInput::new(&good.to_kind(Kind::Float)), &["input_ids", "Float"]);
    check(&BertInput::new(&ids(1, 25)), &["input_ids", "24", "max_position_embeddings"]);
    let types = ids(2, 8);
    check(
        &BertInput { token_type_ids: Some(&types), ..BertInput::new(&good) },
        &["token_type_ids"],
    );
    let mask = good.ne(0);
    check(&BertInput { mask: Some(&mask), ..BertInput::new(&good) }, &["mask", "[2, 4, 9, 9]"]);
    let text = BertInput::new(&(good + 1)).check_values(&tiny());
    assert!(text.is_ok() || text.unwrap_err().to_string().contains("vocab_size = 50"));
}

#[test]
fn flops_are_those_of_the_products() {
    let config = BertConfig::published(BertSize::Base);
    // 85 million parameters in the blocks' matrices, at six operations each.
    let without_attention = 6.0 * 12.0 * (4.0 * 768.0 * 768.0 + 2.0 * 768.0 * 3072.0);
    let attention = 6.0 * 12.0 * 2.0 * 512.0 * 768.0;
    let found = config.flops_per_token(&[512], 0.0);
    assert!((found - without_attention - attention).abs() < 1.0);
    assert!(config.flops_per_token(&[512], 0.15) > found);
    // Of a row of short pieces, a token's attention costs what its piece's does.
    let packed = config.flops_per_token(&[64; 8], 0.0);
    assert!((packed - without_attention - attention / 8.0).abs() < 1.0);
}

#[test]
fn a_saved_folder_has_the_names_of_transformers() {
    let vectors = Vectors::load("bert");
    let config: BertConfig = vectors.config();
    let store = ParamStore::new(Device::Cpu, Kind::Float);
    let _model =
        BertForMaskedLm::new(&store.root(), &config, AttentionImplementation::Fused).unwrap();
    let folder = tempfile::tempdir().unwrap();
    hugging_face::save_bert_for_masked_lm(folder.path(), &config, &store).unwrap();
    let saved =
        bert4rs_tensor_core::safetensors::load(&folder.path().join("model.safetensors")).unwrap();
    let want = vectors.under("weight.");
    assert_eq!(saved.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    assert_eq!(serde_json::from_str::<BertConfig>(&text).unwrap(), config);
}
