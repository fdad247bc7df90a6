//! Low-rank adapters: against peft's recorded results, merged, and apart.

use std::collections::BTreeMap;
use std::path::Path;

use bert4rs_models::pretrained::{Inputs, LoadOptions, LoraOptions, Pretrained};
use bert4rs_tensor_core::{Device, Tensor, autograd, safetensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Vectors, assert_close, max_abs, vectors_folder};

const PEFT: &str = "base_model.model.";

/// The recorded BERT as a folder.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let vectors = Vectors::load("bert");
    let mut config: Value = vectors.config();
    config["architectures"] = json!(["BertForMaskedLM"]);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let weights = vectors.under("weight.");
    let weights: Vec<_> = weights.iter().map(|(name, x)| (name.clone(), x)).collect();
    safetensors::save(&folder.path().join("model.safetensors"), &weights, None).unwrap();
    folder
}

fn options() -> LoraOptions {
    LoraOptions { rank: 3, alpha: 6.0, targets: Vec::new(), dropout: 0.0 }
}

fn load(path: &Path) -> Pretrained {
    Pretrained::load(path, LoadOptions::default()).unwrap()
}

fn forward(model: &Pretrained) -> (Tensor, Tensor) {
    let vectors = Vectors::load("bert");
    let names = ["input_ids", "attention_mask", "token_type_ids", "labels"];
    let tensors: BTreeMap<String, Tensor> =
        names.map(|name| (name.to_owned(), vectors.tensor(name).shallow_clone())).into();
    let inputs = Inputs::new(model.architecture(), &tensors, Device::Cpu).unwrap();
    let mut outputs = model.forward(&inputs).unwrap();
    let at = outputs.named.iter().position(|(name, _)| *name == "logits").unwrap();
    (outputs.named.swap_remove(at).1, outputs.loss.unwrap())
}

#[test]
fn adapters_equal_pefts_and_merge() {
    let kept = safetensors::load(&vectors_folder().join("lora.safetensors")).unwrap();
    let base = folder();
    let plain = forward(&load(base.path())).0;
    let mut model = load(base.path());
    model.add_adapters(&options()).unwrap();
    assert_close("fresh adapters add nothing", &forward(&model).0, &plain, 0.0);

    let mut params = model.take_params();
    for param in params.params_mut() {
        if let Some(value) = kept.get(&format!("{PEFT}{}", param.name)) {
            param.set(value).unwrap();
        }
    }
    let (logits, loss) = forward(&model);
    assert!(max_abs(&(&logits - plain)) > 0.1, "adapters act");
    assert_close("logits", &logits, &kept["logits"], 1e-5);
    assert_close("loss", &loss, &kept["loss"], 1e-5);
    {
        let all = params.params();
        let trained: Vec<_> = all.iter().filter(|param| param.weight.requires_grad()).collect();
        // Queries and values of each block, two each, and the head of masked tokens.
        let of_adapters = trained.iter().filter(|param| param.name.contains(".lora_")).count();
        assert_eq!(of_adapters * 2, kept.len() - 2);
        let heads = trained.iter().filter(|param| !param.name.contains(".lora_"));
        assert!(heads.clone().count() > 0 && heads.clone().all(|p| p.name.starts_with("cls.")));
        let weights: Vec<_> = trained.iter().map(|param| &param.weight).collect();
        let gradients = autograd::gradients(&loss, &weights).unwrap();
        for (param, gradient) in trained.iter().zip(&gradients) {
            if let Some(expected) = kept.get(&format!("grad.{PEFT}{}", param.name)) {
                assert_close(&param.name, gradient, expected, 1e-5);
            }
        }
    }
    let merged = tempfile::tempdir().unwrap();
    model.save_params(&params, merged.path()).unwrap();
    let again = load(merged.path());
    assert!(again.params().params().iter().all(|param| !param.name.contains("lora")));
    assert_close("merged", &forward(&again).0, &logits, 1e-5);

    let apart = tempfile::tempdir().unwrap();
    model.save_adapters(&params, &options(), apart.path()).unwrap();
    let found = safetensors::load(&apart.path().join("adapter_model.safetensors")).unwrap();
    for (name, value) in kept.iter().filter(|(name, _)| name.starts_with(PEFT)) {
        assert_close(name, &found[name], value, 0.0);
    }
    let config = std::fs::read_to_string(apart.path().join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(3), &json!(6.0)));
}

#[test]
fn targets_are_found_by_the_ends_of_their_names_or_refused() {
    let base = folder();
    let count = |targets: &[&str]| {
        let mut model = load(base.path());
        let targets = targets.iter().map(|&name| name.to_owned()).collect();
        model.add_adapters(&LoraOptions { targets, ..options() })?;
        let params = model.params().params();
        Ok(params.iter().filter(|param| param.name.ends_with("lora_A.weight")).count())
    };
    let result = |targets: &[&str]| -> bert4rs_models::Result<usize> { count(targets) };
    let usual = result(&[]).unwrap();
    assert_eq!(result(&["all-linear"]).unwrap(), 3 * usual);
    assert_eq!(result(&["output.dense", "key"]).unwrap(), 3 * usual / 2);
    let text = result(&["query", "q_proj"]).unwrap_err().to_string();
    assert!(text.contains("q_proj") && text.contains("key, query, value"), "{text}");
}
