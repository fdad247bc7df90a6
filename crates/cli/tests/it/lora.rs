//! Fine-tuning by adapters: what is told, learned, left, and refused.

use std::collections::BTreeMap;

use bert4rs_tensor_core::{Tensor, safetensors};
use serde_json::{Value, json};

use crate::finetune::{finetune, json, model, table};
use crate::support::Sandbox;

fn weights(sandbox: &Sandbox, file: &str) -> BTreeMap<String, Tensor> {
    safetensors::load(&sandbox.path(file)).unwrap().into_iter().collect()
}

#[test]
fn adapters_learn_in_a_model_that_stays() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    sandbox.write("train.csv", table(64));
    let data = ["--model", "bert", "--train", "train.csv", "--validation", "train.csv"];
    let adapters = ["--set", "lora.rank=12", "--set", "lora.targets=all-linear"];
    let more = ["--set", "lora.dropout=0.1", "--epochs", "24", "--out", "run"];
    let recomputed = ["--set", "compute.activation_checkpointing=blocks"];
    let args = [&data[..], &adapters, &more, &recomputed].concat();
    let outcome = finetune(&sandbox, "classify", &args);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("trained    "), "{}", outcome.stdout);
    let summary = json(&sandbox, "run/summary.json");
    assert!(summary["validation"]["accuracy"].as_f64().unwrap() > 0.9, "{summary:#}");

    let (before, after) =
        (weights(&sandbox, "bert/model.safetensors"), weights(&sandbox, "run/model.safetensors"));
    let is_same = |name: &str| {
        let off: Tensor = (&before[name] - &after[name]).abs().max();
        off.double_value(&[]) == 0.0
    };
    assert!(is_same("bert.embeddings.word_embeddings.weight"));
    assert!(is_same("bert.encoder.layer.0.attention.self.query.bias"));
    assert!(!is_same("bert.encoder.layer.0.attention.self.query.weight"), "merged");
    assert!(after.keys().all(|name| !name.contains("lora")), "{:?}", after.keys());
    let apart = weights(&sandbox, "run/adapter/adapter_model.safetensors");
    let name = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight";
    assert_eq!(apart[name].size()[0], 12);
    assert!(apart.contains_key("base_model.model.classifier.weight"));
    let config = json(&sandbox, "run/adapter/adapter_config.json");
    assert_eq!((&config["peft_type"], &config["task_type"]), (&json!("LORA"), &json!("SEQ_CLS")));

    // The merged model says what the adapted one did.
    let args = ["evaluate", "--model", "run", "--data", "train.csv", "--json"];
    let found = sandbox.run(&args);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(found["scores"]["accuracy"]["value"], summary["validation"]["accuracy"]);
    let off = found["loss"].as_f64().unwrap() - summary["validation"]["loss"].as_f64().unwrap();
    assert!(off.abs() < 1e-5, "{off}");

    for (setting, told) in [
        ("lora.targets=q_proj", "lora.targets = q_proj: names no map within the model's blocks"),
        ("lora.alpha=0", "lora.alpha: 0 is not above 0"),
        ("train.freeze=1", "adapters freeze all that they stand beside"),
    ] {
        let args = [&data[..], &["--set", "lora.rank=4", "--set", setting, "--out", "bad"]];
        let outcome = finetune(&sandbox, "classify", &args.concat());
        assert_eq!(outcome.code, Some(2), "{told}: {}", outcome.stdout);
        assert!(outcome.stderr.contains(told), "{told}: {}", outcome.stderr);
    }
}

#[test]
fn a_gpt_and_an_encoder_of_texts_have_adapters_too() {
    let sandbox = Sandbox::new();
    let rank = ["--set", "lora.rank=8", "--set", "lora.targets=all-linear", "--epochs", "20"];
    model(&sandbox, "relative_gpt2", "GPT2LMHeadModel");
    sandbox.write("texts.jsonl", "{\"text\":\"the film was good\"}\n".repeat(16));
    let data = ["--model", "relative_gpt2", "--train", "texts.jsonl", "--out", "gpt"];
    let held = ["--validation", "texts.jsonl"];
    let outcome = finetune(&sandbox, "causal", &[&data[..], &held, &rank].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let perplexity = json(&sandbox, "gpt/summary.json")["validation"]["perplexity"].clone();
    assert!(perplexity.as_f64().unwrap() < 10.0, "{perplexity}");
    assert_eq!(json(&sandbox, "gpt/adapter/adapter_config.json")["fan_in_fan_out"], true);
    let args = ["evaluate", "--model", "gpt", "--data", "texts.jsonl", "--json"];
    let found: Value = serde_json::from_str(&sandbox.run(&args).stdout).unwrap();
    let off =
        found["scores"]["perplexity"]["value"].as_f64().unwrap() - perplexity.as_f64().unwrap();
    assert!(off.abs() < 1e-3, "{off}");

    model(&sandbox, "relative_electra", "ElectraForMaskedLM");
    sandbox.write("pairs.csv", "text,text_pair\ngood,fine\nbad,poor\nfilm,plot\n");
    let data = ["--model", "relative_electra", "--train", "pairs.csv", "--out", "pairs"];
    let parts = ["--encode-at-once", "2", "--batch-size", "3"];
    let outcome = finetune(&sandbox, "similarity", &[&data[..], &parts, &rank].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let apart = weights(&sandbox, "pairs/adapter/adapter_model.safetensors");
    let name = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight";
    assert!(apart.contains_key(name), "{:?}", apart.keys());
}
