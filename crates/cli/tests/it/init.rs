//! Continued pretraining: `--init` takes the weights and tokenizer of a model's folder.

use std::collections::BTreeMap;

use bert4rs_models::bert::{BertConfig, BertForMaskedLm, BertVariant};
use bert4rs_models::hugging_face::{Architecture, save};
use bert4rs_tensor_core::attention::AttentionImplementation::Fused;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor, safetensors};
use serde_json::json;

use crate::support::{Outcome, Sandbox};
use crate::text::{write_bert, write_gpt, write_t5};

/// Four steps from the model in `from` to `out`.
fn train_from(sandbox: &Sandbox, from: &str, out: &str, more: &[&str]) -> Outcome {
    let fixed = ["train", "--init", from, "--out", out, "--corpus", "corpus.txt"];
    let sizes = ["--max-steps", "4", "--batch-size", "2", "--seq-len", "24", "--device", "cpu"];
    let set = ["--set", "train.eval_sequences=4", "--set", "compute.precision=fp32"];
    sandbox.run(&[&fixed[..], &sizes, &set, more].concat())
}

fn weights(sandbox: &Sandbox, folder: &str) -> BTreeMap<String, Tensor> {
    safetensors::load(&sandbox.path(folder).join("model.safetensors")).unwrap()
}

/// Without a learning rate, training leaves the weights as they were taken.
const STILL: [&str; 2] = ["--lr", "0"];

#[test]
fn weights_and_tokenizer_of_every_family_are_taken() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    write_bert(&sandbox);
    write_gpt(&sandbox);
    write_t5(&sandbox);
    for folder in ["bert", "gpt", "t5"] {
        let out = format!("{folder}-on");
        let shown = train_from(&sandbox, folder, &out, &STILL).succeeds().stdout;
        assert!(shown.contains("init       "), "{shown}");
        let (found, expected) = (weights(&sandbox, &out), weights(&sandbox, folder));
        for (name, tensor) in &found {
            assert!(expected.get(name) == Some(tensor), "{folder}: {name}");
        }
        let read = |folder: &str| std::fs::read_to_string(sandbox.path(folder)).unwrap();
        let config: serde_json::Value =
            serde_json::from_str(&read(&format!("{out}/config.json"))).unwrap();
        let before: serde_json::Value =
            serde_json::from_str(&read(&format!("{folder}/config.json"))).unwrap();
        for key in ["layer_norm_eps", "initializer_range", "d_ff", "n_embd", "architectures"] {
            assert_eq!(config[key], before[key], "{folder}: {key}");
        }

        // A run is such a folder too, and a larger vocabulary begins as in a fresh model.
        let bigger = format!("{folder}-more");
        let flags = [&STILL[..], &["--vocab-size", "450"]].concat();
        let shown = train_from(&sandbox, &out, &bigger, &flags).succeeds().stdout;
        assert!(shown.contains("tokens are new"), "{shown}");
        let grown = weights(&sandbox, &bigger);
        for (name, tensor) in &grown {
            let rows = found[name].size()[0];
            assert!(tensor.narrow(0, 0, rows) == found[name], "{folder}: {name}");
        }
        assert!(grown.values().any(|tensor| tensor.size()[0] == 450), "{folder}");
    }
}

#[test]
fn it_goes_on_to_the_bit_and_without_the_folders_weights() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    write_bert(&sandbox);
    let flags = ["--checkpoint-every", "2"];
    train_from(&sandbox, "bert", "run", &flags).succeeds();
    let whole = weights(&sandbox, "run");
    assert!(whole != weights(&sandbox, "bert"), "it has learned");
    std::fs::remove_file(sandbox.path("bert/model.safetensors")).unwrap();
    std::fs::remove_file(sandbox.path("bert/config.json")).unwrap();
    let resume = ["train", "--config", "run/config.toml", "--resume", "run/checkpoints/step-2"];
    sandbox.run(&resume).succeeds();
    assert!(weights(&sandbox, "run") == whole);
}

#[test]
fn relatives_of_bert_go_on_learning() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for (name, variant) in [
        ("distilbert", BertVariant::DistilBert { qa_dropout: 0.1 }),
        ("electra", BertVariant::Electra { embedding_size: 8 }),
        ("roberta", BertVariant::Roberta),
    ] {
        write_bert(&sandbox);
        let config = BertConfig {
            vocab_size: 400,
            hidden_size: 16,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            intermediate_size: 32,
            max_position_embeddings: 32,
            type_vocab_size: i64::from(name != "distilbert"),
            variant,
            ..BertConfig::default()
        };
        let store = ParamStore::new(Device::Cpu, Kind::Float);
        BertForMaskedLm::new(&store.root(), &config, Fused).unwrap();
        let class = Architecture::all().find(|class| {
            class.model_type().name() == name && class.to_string().ends_with("ForMaskedLM")
        });
        save(&sandbox.path("bert"), &config, class.unwrap(), &store, json!({})).unwrap();
        if name == "roberta" {
            with_robertas_names(&sandbox);
        }
        let out = format!("{name}-on");
        train_from(&sandbox, "bert", &out, &[]).succeeds();
        let text = std::fs::read_to_string(sandbox.path(&out).join("config.json")).unwrap();
        assert!(text.contains(&format!("\"model_type\": \"{name}\"")), "{text}");
        assert!(weights(&sandbox, &out) != weights(&sandbox, "bert"), "{name} has learned");
    }
}

/// Gives the folder a tokenizer whose special tokens have the names that RoBERTa has for them.
fn with_robertas_names(sandbox: &Sandbox) {
    let mut text = std::fs::read_to_string(sandbox.path("electra-on/tokenizer.json")).unwrap();
    for (bert, roberta) in [
        ("[PAD]", "<pad>"),
        ("[UNK]", "<unk>"),
        ("[CLS]", "<s>"),
        ("[SEP]", "</s>"),
        ("[MASK]", "<mask>"),
    ] {
        text = text.replace(bert, roberta);
    }
    sandbox.write("bert/tokenizer.json", text);
}

#[test]
fn what_does_not_fit_is_one_clear_error() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    write_bert(&sandbox);
    let refused = |more: &[&str], parts: &[&str]| {
        train_from(&sandbox, "bert", "run", more).refuses(parts);
        assert!(!sandbox.path("run").exists(), "nothing was touched");
    };
    refused(&["--hidden-size", "64"], &["model.hidden_size", "64", "16"]);
    refused(&["--vocab-size", "99"], &["model.vocab_size", "can only grow"]);
    refused(&["--model", "gpt"], &["model.family", "bert"]);
    refused(&["--set", "model.qk_norm=true"], &["model.qk_norm"]);
    refused(&["--seq-len", "64"], &["model.max_positions", "data.seq_len"]);
    train_from(&sandbox, "nowhere", "run", &[]).refuses(&["nowhere", "config.json"]);

    let weights = sandbox.path("bert/model.safetensors");
    let mut tensors = safetensors::load(&weights).unwrap();
    let _ = tensors.remove("bert.encoder.layer.1.output.dense.weight").unwrap();
    let kept: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    safetensors::save(&weights, &kept, None).unwrap();
    refused(&[], &["bert.encoder.layer.1.output.dense.weight is missing"]);
}
