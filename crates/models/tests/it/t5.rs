//! T5 against transformers' recorded results, and its own promises.

use bert4rs_models::loss::{IGNORED, Labels};
use bert4rs_models::mask;
use bert4rs_models::t5::{T5, T5Cache, T5Config, T5Input};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor, random};

use crate::support::{Vectors, assert_close, assert_close_where, loss_options};

fn check_against_transformers(name: &str, implementation: AttentionImplementation) {
    let vectors = Vectors::load(name);
    let config: T5Config = vectors.config();
    let mut store = ParamStore::new(Device::Cpu, Kind::Float);
    let model = T5::new(&store.root(), &config, implementation).unwrap();
    vectors.set_weights(&mut store);
    let padding = mask::padding(vectors.tensor("attention_mask"));
    let keep_bt = vectors.tensor("decoder_attention_mask");
    let decoder_padding = mask::padding(keep_bt);
    let input = T5Input {
        mask: Some(&padding),
        decoder_mask: Some(&decoder_padding),
        cross_mask: Some(&padding),
        ..T5Input::new(vectors.tensor("input_ids"), vectors.tensor("decoder_input_ids"))
    };
    let hidden = model.forward(&input, false).unwrap();
    assert_close_where("hidden", &hidden, vectors.tensor("last_hidden_state"), keep_bt, 1e-5);
    let logits = model.logits(&hidden);
    assert_close_where("logits", &logits, vectors.tensor("logits"), keep_bt, 1e-5);
    let labels = vectors.tensor("labels");
    let loss = model.lm_loss(&input, labels, &loss_options(implementation), false).unwrap();
    assert_close("loss", &loss, vectors.tensor("loss"), 1e-5);
    // Logits of the counted positions alone give the same loss and gradients.
    let counted = labels.flatten(0, 1).ne(IGNORED).nonzero().flatten(0, 1);
    assert!(counted.size()[0] < labels.numel() as i64);
    let options = loss_options(implementation);
    let labels = Labels { counted_n: Some(&counted), ..labels.into() };
    let counted = model.lm_loss(&input, labels, &options, false).unwrap();
    assert_close("counted loss", &counted, &loss, 1e-6);
    ((loss + counted) / 2.0).backward();
    vectors.check_grads(&store);
}

#[test]
fn v1_0_equals_transformers() {
    check_against_transformers("t5_1_0", AttentionImplementation::Plain);
    check_against_transformers("t5_1_0", AttentionImplementation::Fused);
}

#[test]
fn v1_1_equals_transformers() {
    check_against_transformers("t5_1_1", AttentionImplementation::Plain);
    check_against_transformers("t5_1_1", AttentionImplementation::Fused);
}

fn tiny() -> T5Config {
    T5Config {
        vocab_size: 50,
        d_model: 24,
        d_kv: 8,
        d_ff: 32,
        num_layers: 2,
        num_decoder_layers: Some(3),
        num_heads: 4,
        relative_attention_num_buckets: 8,
        relative_attention_max_distance: 16,
        ..T5Config::default()
    }
}

fn ids(rows: i64, time: i64) -> Tensor {
    Tensor::randint(49, [rows, time], (Kind::Int64, Device::Cpu)) + 1
}

#[test]
fn cached_steps_equal_one_pass() {
    random::seed(1);
    let store = ParamStore::new(Device::Cpu, Kind::Float);
    let model = T5::new(&store.root(), &tiny(), AttentionImplementation::Fused).unwrap();
    let (source, target) = (ids(2, 11), ids(2, 13));
    let memory = model.encode(&source, None, false).unwrap();
    let whole = model.decode(&target, None, &memory, None, None, false).unwrap();
    let mut cache = T5Cache::default();
    let steps: Vec<_> = [(0, 5), (5, 1), (6, 3), (9, 4)]
        .map(|(start, count)| target.narrow(1, start, count))
        .iter()
        .map(|ids| model.decode(ids, None, &memory, None, Some(&mut cache), false).unwrap())
        .collect();
    assert_close("cached", &Tensor::cat(&steps, 1), &whole, 2e-6);
}

#[test]
fn labels_shift_behind_the_start() {
    let store = ParamStore::new(Device::Cpu, Kind::Float);
    let model = T5::new(&store.root(), &tiny(), AttentionImplementation::Plain).unwrap();
    let labels = Tensor::from_slice(&[7i64, 8, IGNORED, IGNORED]).unsqueeze(0);
    let want = Tensor::from_slice(&[0i64, 7, 8, 0]).unsqueeze(0);
    assert_eq!(model.shift_right(&labels).unwrap(), want);
}

#[test]
fn wrong_configurations_name_key_and_value() {
    let check = |config: T5Config, words: &[&str]| {
        let text = config.validate().unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    check(T5Config { d_kv: 0, ..tiny() }, &["d_kv = 0"]);
    check(T5Config { feed_forward_proj: "gated-foo".into(), ..tiny() }, &["gated-foo", "silu"]);
    let buckets = T5Config { relative_attention_num_buckets: 7, ..tiny() };
    check(buckets, &["relative_attention_num_buckets = 7"]);
    check(T5Config { eos_token_id: 50, ..tiny() }, &["eos_token_id = 50", "vocab_size = 50"]);
}
