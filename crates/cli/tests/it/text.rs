//! `bert4rs generate`, `fill-mask` and `embed` with small models. What they compute is held
//! against transformers by `tests/check_text.py`, by hand; here, by the models' own promises.

use std::path::Path;

use bert4rs_models::bert::{BertConfig, BertForMaskedLm};
use bert4rs_models::gpt::{Gpt, GptConfig};
use bert4rs_models::hugging_face::{Architecture, save, save_bert_for_masked_lm};
use bert4rs_models::t5::{T5, T5Config};
use bert4rs_tensor_core::attention::AttentionImplementation::Fused;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, safetensors};
use serde_json::{Value, json};

use crate::support::{Outcome, Sandbox};

/// Copies a small tokenizer of the data crate's tests into the folder `to`.
fn tokenizer(sandbox: &Sandbox, name: &str, to: &str) {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/vectors").join(name);
    std::fs::create_dir_all(sandbox.path(to)).unwrap();
    for entry in std::fs::read_dir(vectors).unwrap() {
        let file = entry.unwrap().path();
        std::fs::copy(&file, sandbox.path(to).join(file.file_name().unwrap())).unwrap();
    }
}

fn store() -> ParamStore {
    ParamStore::new(Device::Cpu, Kind::Float)
}

/// A random GPT of 48 positions in the folder `gpt`.
pub(crate) fn write_gpt(sandbox: &Sandbox) {
    tokenizer(sandbox, "gpt2", "gpt");
    let config = GptConfig {
        vocab_size: 400,
        n_positions: 48,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        initializer_range: 0.3,
        bos_token_id: Some(0),
        eos_token_id: Some(0),
        ..GptConfig::default()
    };
    let store = store();
    Gpt::new(&store.root(), &config, Fused).unwrap();
    let architecture = Architecture::GPT2_LM_HEAD_MODEL;
    save(&sandbox.path("gpt"), &config, architecture, &store, json!({})).unwrap();
}

/// A random T5 in the folder `t5`.
pub(crate) fn write_t5(sandbox: &Sandbox) {
    tokenizer(sandbox, "t5", "t5");
    let config = T5Config {
        vocab_size: 300,
        d_model: 16,
        d_kv: 8,
        d_ff: 32,
        num_layers: 2,
        num_heads: 2,
        ..T5Config::default()
    };
    let store = store();
    T5::new(&store.root(), &config, Fused).unwrap();
    let architecture = Architecture::T5_FOR_CONDITIONAL_GENERATION;
    save(&sandbox.path("t5"), &config, architecture, &store, json!({})).unwrap();
}

/// A random BERT of 24 positions in the folder `bert`.
pub(crate) fn write_bert(sandbox: &Sandbox) {
    tokenizer(sandbox, "bert_lower", "bert");
    let config = BertConfig {
        vocab_size: 400,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 32,
        max_position_embeddings: 24,
        initializer_range: 0.3,
        ..BertConfig::default()
    };
    let store = store();
    BertForMaskedLm::new(&store.root(), &config, Fused).unwrap();
    save_bert_for_masked_lm(&sandbox.path("bert"), &config, &store).unwrap();
}

fn objects(outcome: Outcome) -> Vec<Value> {
    let shown = outcome.succeeds().stdout;
    shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn gpt_continues_prompts() {
    let sandbox = Sandbox::new();
    write_gpt(&sandbox);
    let run = |extra: &[&str]| {
        sandbox.run(&[&["generate", "--model", "gpt", "--prompt", "A crate"], extra].concat())
    };
    let shown = run(&[]).succeeds().stdout;
    let object = &objects(run(&["--json"]))[0];
    assert!(shown.starts_with("A crate"), "{shown}");
    assert_eq!(shown.strip_suffix('\n'), object["text"].as_str());
    let ids = object["token_ids"].as_array().unwrap();
    assert!(!ids.is_empty() && ids.len() <= 48, "as many as there are positions");
    assert_eq!(run(&["--no-cache"]).succeeds().stdout, shown);

    let drawn = |seed: &str| run(&["--seed", seed, "--temperature", "1.5"]).succeeds();
    assert_eq!(drawn("1").stdout, drawn("1").stdout);
    assert_ne!(drawn("1").stdout, drawn("2").stdout);
    let outcome = run(&["--top-p", "0.9", "--json"]).succeeds();
    let seed = outcome.stderr.split("--seed ").nth(1).unwrap().split(' ').next().unwrap();
    let again = run(&["--top-p", "0.9", "--json", "--seed", seed]).succeeds();
    assert_eq!(outcome.stdout, again.stdout, "the seed that is told draws the text again");
    run(&["--beams", "3", "--length-penalty", "0.5", "--early-stopping"]).succeeds();
}

#[test]
fn a_batch_of_prompts_is_each_alone() {
    let sandbox = Sandbox::new();
    write_gpt(&sandbox);
    write_t5(&sandbox);
    sandbox.write("prompts.txt", "A crate\nnaïve 😀 text\n\n");
    for model in ["gpt", "t5"] {
        let run = |args: &[&str]| {
            let all = ["generate", "--model", model, "--json", "--max-new-tokens", "9"];
            objects(sandbox.run(&[&all[..], args].concat()))
        };
        let together = run(&["--prompt-file", "prompts.txt"]);
        assert_eq!(together.len(), 3);
        for object in together {
            let alone = run(&["--prompt", object["prompt"].as_str().unwrap()]);
            assert_eq!(alone[0], object, "{model}");
        }
    }
}

#[test]
fn masks_are_filled_with_probabilities() {
    let sandbox = Sandbox::new();
    write_bert(&sandbox);
    let run = |extra: &[&str]| {
        let args = ["fill-mask", "--model", "bert", "--text", "a [MASK] and [MASK]"];
        sandbox.run(&[&args[..], extra].concat())
    };
    let found = &objects(run(&["--json", "--top-k", "400"]))[0]["masks"];
    assert_eq!(found.as_array().unwrap().len(), 2);
    for mask in found.as_array().unwrap() {
        let probabilities: Vec<f64> = mask
            .as_array()
            .unwrap()
            .iter()
            .map(|guess| guess["probability"].as_f64().unwrap())
            .collect();
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-4);
        assert!(probabilities.is_sorted_by(|left, right| left >= right));
    }
    let shown = run(&["--top-k", "3"]).succeeds().stdout;
    assert_eq!(shown.lines().count(), 1 + 3 + 1 + 3, "{shown}");
}

#[test]
fn texts_become_vectors_in_any_batch() {
    let sandbox = Sandbox::new();
    write_bert(&sandbox);
    sandbox.write("lines.txt", "a crate\nthe model makes it\n\na step");
    let run = |extra: &[&str]| {
        let args = ["embed", "--model", "bert", "--file", "lines.txt"];
        sandbox.run(&[&args[..], extra].concat()).succeeds()
    };
    run(&["--normalize", "--output", "all.safetensors"]);
    run(&["--normalize", "--output", "one.safetensors", "--batch-size", "1"]);
    let load = |name: &str| {
        let mut tensors = safetensors::load(&sandbox.path(name)).unwrap();
        tensors.remove("embeddings").unwrap()
    };
    let (all, one) = (load("all.safetensors"), load("one.safetensors"));
    assert_eq!(all.size(), [4, 16]);
    assert!((&all - &one).abs().max().double_value(&[]) < 1e-6);
    let lengths = all.norm_scalaropt_dim(2, [-1i64].as_slice(), false);
    assert!((lengths - 1.0).abs().max().double_value(&[]) < 1e-6);
    let shown = objects(run(&["--pooling", "cls"]));
    assert_eq!((shown.len(), &shown[1]["text"]), (4, &json!("the model makes it")));
    run(&["--output", "all.json"]);
    let text = std::fs::read_to_string(sandbox.path("all.json")).unwrap();
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(list[3]["embedding"].as_array().unwrap().len(), 16);
    let long = ["embed", "--model", "bert", "--text", "a", &"crates ".repeat(50)];
    let outcome = sandbox.run(&long).succeeds();
    assert!(outcome.stderr.contains("1 of 2 texts were cut to 24 tokens"), "{}", outcome.stderr);
}

/// What sentence-transformers' files in the folder say of pooling, normalisation and prompts.
#[test]
fn the_models_own_pooling_and_prompts_are_used() {
    let sandbox = Sandbox::new();
    write_bert(&sandbox);
    let run = |extra: &[&str]| {
        let args = ["embed", "--model", "bert", "--text", "a crate"];
        objects(sandbox.run(&[&args[..], extra].concat()))[0]["embedding"].clone()
    };
    let (mean, first) = (run(&[]), run(&["--pooling", "cls", "--normalize"]));
    assert_ne!(mean, first);
    std::fs::create_dir(sandbox.path("bert/1_Pooling")).unwrap();
    let class = |name: &str| format!("sentence_transformers.models.{name}");
    let modules = json!([
        {"idx": 0, "name": "0", "path": "", "type": class("Transformer")},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": class("Pooling")},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": class("Normalize")},
    ]);
    sandbox.write("bert/modules.json", modules.to_string());
    let pooling = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false});
    sandbox.write("bert/1_Pooling/config.json", pooling.to_string());
    assert_eq!(run(&[]), first);
    assert_ne!(run(&["--pooling", "mean"]), first);
    let prompts = json!({"prompts": {"query": "the model makes: "}});
    sandbox.write("bert/config_sentence_transformers.json", prompts.to_string());
    let asked = ["embed", "--model", "bert", "--text", "the model makes: a crate"];
    let wanted = objects(sandbox.run(&asked))[0]["embedding"].clone();
    assert_eq!(run(&["--prompt-name", "query"]), wanted);
}

/// A GPT's folder has vectors too: of its last token, if asked.
#[test]
fn a_gpt_makes_vectors() {
    let sandbox = Sandbox::new();
    write_gpt(&sandbox);
    let args = ["embed", "--model", "gpt", "--pooling", "lasttoken+mean", "--text", "a crate"];
    let object = &objects(sandbox.run(&args))[0];
    assert_eq!(object["embedding"].as_array().unwrap().len(), 32);
}

#[test]
fn a_trained_model_is_used_as_it_lies() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.train(&[]).succeeds();
    let args = ["fill-mask", "--model", "run", "--text", "the [MASK] holds it", "--json"];
    assert_eq!(objects(sandbox.run(&args))[0]["masks"][0].as_array().unwrap().len(), 5);
    sandbox.run(&["embed", "--model", "run", "--text", "a model"]).succeeds();
    sandbox.run(&["generate", "--model", "run", "--prompt", "a model"]).refuses(&[
        "run",
        "BertForMaskedLM does not generate",
        "fill-mask",
    ]);
}
