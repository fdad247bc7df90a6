//! Generation against recorded texts of transformers, and its own promises.

use bert4rs_models::generation::{
    BeamSearch, EarlyStopping, GenerationConfig, Generator, Sampling, Strategy, generate, logits,
};
use bert4rs_models::gpt::{Gpt, GptConfig};
use bert4rs_models::t5::{T5, T5Config};
use bert4rs_tensor_core::attention::AttentionImplementation::Fused;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor, random, safetensors};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::support::{assert_close, vectors_folder};

#[derive(Deserialize)]
struct Kept {
    prompts: Vec<Vec<i64>>,
    max_new_tokens: usize,
    gpt2: Recorded,
    t5: Recorded,
    processed: Value,
}

#[derive(Deserialize)]
struct Recorded {
    config: Value,
    cases: Vec<Case>,
    end: i64,
}

#[derive(Deserialize)]
struct Case {
    options: Value,
    texts: Vec<Vec<i64>>,
}

fn kept() -> Kept {
    let text = std::fs::read_to_string(vectors_folder().join("generation.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Sets every parameter to the recorded one; GPT-2's matrices lie the other way round.
fn set_weights(store: &mut ParamStore, name: &str) {
    let file = vectors_folder().join(format!("generation_{name}.safetensors"));
    let weights = safetensors::load(&file).unwrap();
    for param in store.params_mut() {
        let weight = &weights[&param.name];
        let turned = param.name.contains(".c_") && weight.dim() == 2;
        let weight = if turned { weight.transpose(0, 1) } else { weight.shallow_clone() };
        param.set(&weight).unwrap();
    }
}

fn options(kept: &Kept, end: i64, case: &Value) -> GenerationConfig {
    let strategy = match case["num_beams"].as_u64() {
        None => Strategy::Greedy,
        Some(beams) => Strategy::Beam(BeamSearch {
            beams: beams as usize,
            length_penalty: case["length_penalty"].as_f64().unwrap_or(1.0),
            early_stopping: match &case["early_stopping"] {
                Value::Bool(true) => EarlyStopping::WhenFull,
                Value::String(_) => EarlyStopping::Never,
                _ => EarlyStopping::Heuristic,
            },
        }),
    };
    GenerationConfig {
        max_new_tokens: kept.max_new_tokens,
        strategy,
        repetition_penalty: case["repetition_penalty"].as_f64().unwrap_or(1.0),
        ends: vec![end],
        cache: true,
    }
}

/// Holds every recorded text against ours, as a batch and, for what is streamed, in its order.
fn check(model: Generator, kept: &Kept, recorded: &Recorded) {
    for case in &recorded.cases {
        let options = options(kept, recorded.end, &case.options);
        for cache in [true, false] {
            let options = GenerationConfig { cache, ..options.clone() };
            let mut streamed = vec![Vec::new(); kept.prompts.len()];
            let mut on_token = |row: usize, token| streamed[row].push(token);
            let texts = generate(model, &kept.prompts, &options, &mut on_token).unwrap();
            assert_eq!(texts, case.texts, "{:?}, cache {cache}", case.options);
            assert_eq!(streamed, texts);
        }
        for (prompt, want) in kept.prompts.iter().zip(&case.texts) {
            let alone =
                generate(model, std::slice::from_ref(prompt), &options, &mut |_, _| {}).unwrap();
            assert_eq!(&alone[0], want, "{:?}, {prompt:?} alone", case.options);
        }
    }
}

#[test]
fn gpt_texts_equal_transformers() {
    let kept = kept();
    let config: GptConfig = serde_json::from_value(kept.gpt2.config.clone()).unwrap();
    let mut store = ParamStore::new(Device::Cpu, Kind::Float);
    let model = Gpt::new(&store.root(), &config, Fused).unwrap();
    set_weights(&mut store, "gpt2");
    check(Generator::Gpt(&model), &kept, &kept.gpt2);
}

#[test]
fn t5_texts_equal_transformers() {
    let kept = kept();
    let config: T5Config = serde_json::from_value(kept.t5.config.clone()).unwrap();
    let mut store = ParamStore::new(Device::Cpu, Kind::Float);
    let model = T5::new(&store.root(), &config, Fused).unwrap();
    set_weights(&mut store, "t5");
    check(Generator::T5(&model), &kept, &kept.t5);
}

fn rows(value: &Value) -> Tensor {
    let rows: Vec<Vec<f32>> = serde_json::from_value(value.clone()).unwrap();
    Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1])
}

#[test]
fn logits_are_changed_as_in_transformers() {
    let processed = kept().processed;
    let logits = rows(&processed["logits"]);
    let ids: Vec<Vec<i64>> = serde_json::from_value(processed["ids"].clone()).unwrap();
    let ids: Vec<&[i64]> = ids.iter().map(Vec::as_slice).collect();
    let check = |name: &str, found: Tensor| {
        // JSON has no infinity.
        let found = found.masked_fill(&found.isinf(), -1e30);
        assert_close(name, &found, &rows(&processed[name]), 1e-6);
    };
    check("repetition_penalty", logits::repetition_penalty(&logits, &ids, 1.7));
    check("temperature", logits::temperature(&logits, 0.6));
    check("top_k", logits::top_k(&logits, 5));
    check("top_p", logits::top_p(&logits, 0.8));
    assert_eq!(logits::top_k(&logits, 1000), logits);
    let one = logits::top_p(&logits, 1e-9).isfinite().sum(Kind::Int64);
    assert_eq!(one.int64_value(&[]), 2, "the most probable token of each row stays");
}

fn tiny() -> (ParamStore, Gpt) {
    random::seed(5);
    let config = GptConfig {
        vocab_size: 40,
        n_positions: 32,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        initializer_range: 0.4,
        ..GptConfig::default()
    };
    let store = ParamStore::new(Device::Cpu, Kind::Float);
    let model = Gpt::new(&store.root(), &config, Fused).unwrap();
    (store, model)
}

fn sampling(seed: u64) -> GenerationConfig {
    let sampling = Sampling { temperature: 0.9, top_k: Some(20), top_p: Some(0.95), seed };
    GenerationConfig {
        max_new_tokens: 12,
        strategy: Strategy::Sample(sampling),
        repetition_penalty: 1.0,
        ends: vec![0],
        cache: true,
    }
}

fn run(model: &Gpt, prompts: &[Vec<i64>], options: &GenerationConfig) -> Vec<Vec<i64>> {
    generate(Generator::Gpt(model), prompts, options, &mut |_, _| {}).unwrap()
}

#[test]
fn a_seed_decides_the_text_whatever_else_is_in_the_batch() {
    let (_store, model) = tiny();
    let prompts = [vec![1, 2, 3], vec![4]];
    let first = run(&model, &prompts, &sampling(7));
    assert_eq!(first, run(&model, &prompts, &sampling(7)));
    assert_ne!(first, run(&model, &prompts, &sampling(8)));
    assert_eq!(first[0], run(&model, &prompts[..1], &sampling(7))[0]);
}

#[test]
fn one_token_to_choose_from_is_greedy_search() {
    let (_store, model) = tiny();
    let greedy = GenerationConfig { strategy: Strategy::Greedy, ..sampling(0) };
    let one = Sampling { temperature: 3.0, top_k: Some(1), top_p: None, seed: 3 };
    let prompts = [vec![1, 2, 3], vec![30]];
    let want = run(&model, &prompts, &greedy);
    let sampled = GenerationConfig { strategy: Strategy::Sample(one), ..greedy.clone() };
    assert_eq!(run(&model, &prompts, &sampled), want);
    let beam =
        BeamSearch { beams: 1, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic };
    let beam = GenerationConfig { strategy: Strategy::Beam(beam), ..greedy };
    assert_eq!(run(&model, &prompts, &beam), want);
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let (_store, model) = tiny();
    let check = |prompts: &[Vec<i64>], options: GenerationConfig, parts: &[&str]| {
        let error = generate(Generator::Gpt(&model), prompts, &options, &mut |_, _| {});
        let text = error.unwrap_err().to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let prompt = [vec![1, 2]];
    let with = |change: fn(&mut Sampling)| {
        let mut options = sampling(1);
        if let Strategy::Sample(sampling) = &mut options.strategy {
            change(sampling);
        }
        options
    };
    check(&[], sampling(1), &["prompt", "no token"]);
    check(&[vec![]], sampling(1), &["prompt", "no token"]);
    check(&[vec![40]], sampling(1), &["token 40", "vocab_size = 40"]);
    let long = GenerationConfig { max_new_tokens: 32, ..sampling(1) };
    check(&prompt, long, &["max_new_tokens", "32 after a prompt of 2", "at most 31"]);
    check(
        &prompt,
        GenerationConfig { max_new_tokens: 0, ..sampling(1) },
        &["max_new_tokens", "at least 1"],
    );
    check(&prompt, with(|sampling| sampling.temperature = 0.0), &["temperature", "above 0"]);
    check(&prompt, with(|sampling| sampling.top_k = Some(0)), &["top_k", "at least 1"]);
    check(&prompt, with(|sampling| sampling.top_p = Some(1.5)), &["top_p", "1.5"]);
    let penalty = GenerationConfig { repetition_penalty: f64::NAN, ..sampling(1) };
    check(&prompt, penalty, &["repetition_penalty", "NaN"]);
    assert_eq!(
        run(&model, &prompt, &GenerationConfig { max_new_tokens: 31, ..sampling(1) }).len(),
        1
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn cached_generation_equals_uncached(
        prompts in prop::collection::vec(prop::collection::vec(0i64..40, 1..9), 1..4),
        beams in 0usize..4,
        seed in 0u64..1000,
    ) {
        let (_store, model) = tiny();
        let mut options = sampling(seed);
        if beams > 0 {
            let early_stopping = EarlyStopping::Heuristic;
            let search = BeamSearch { beams, length_penalty: 1.0, early_stopping };
            options.strategy = Strategy::Beam(search);
        }
        let uncached = GenerationConfig { cache: false, ..options.clone() };
        prop_assert_eq!(run(&model, &prompts, &options), run(&model, &prompts, &uncached));
    }
}
