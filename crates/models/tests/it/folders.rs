//! Model folders: written, read, and refused.
//!
//! With `BERT4RS_KEEP_FOLDERS` set to a folder, the written ones stay there, for
//! `vectors/check_folders.py` to load in transformers.

use std::path::{Path, PathBuf};

use bert4rs_models::bert::{
    BertConfig, BertForMaskedLm, BertForPreTraining, BertForQuestionAnswering,
    BertForReplacedTokens, BertForSequenceClassification, BertForTokenClassification, BertModel,
};
use bert4rs_models::gpt::{Gpt, GptConfig, GptForSequenceClassification};
use bert4rs_models::hugging_face::{
    Architecture, Folder, HeadKind, ModelType, PretrainedConfig, save,
};

use bert4rs_models::overrides::ArchitectureOverrides;
use bert4rs_models::pretrained::{LoadOptions, Pretrained};
use bert4rs_models::t5::{T5, T5Config, T5Encoder, T5EncoderForSequenceClassification};
use bert4rs_tensor_core::attention::AttentionImplementation::Fused;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor, random, safetensors};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::properties::{bert, gpt, overrides, sharpen, t5};
use crate::support::Vectors;

fn store() -> ParamStore {
    ParamStore::new(Device::Cpu, Kind::Float)
}

fn class(model_type: ModelType, head: HeadKind) -> Architecture {
    model_type.with(head).unwrap()
}

/// A store with the parameters of that architecture; the model itself is dropped.
fn made<C: PretrainedConfig>(config: &C, architecture: Architecture) -> ParamStore {
    let store = store();
    let (root, json) = (store.root(), config.to_json().unwrap());
    let model_type = architecture.model_type();
    let bert = || BertConfig::from_json(model_type, &json).unwrap();
    match (model_type, architecture.head()) {
        (ModelType::Gpt2, HeadKind::SequenceClassification) => {
            let config = GptConfig::from_json(model_type, &json).unwrap();
            drop(GptForSequenceClassification::new(&root, &config, 3, Fused).unwrap());
        }
        (ModelType::Gpt2, _) => {
            let config = GptConfig::from_json(model_type, &json).unwrap();
            drop(Gpt::new(&root, &config, Fused).unwrap());
        }
        (ModelType::T5, HeadKind::Encoder) => {
            let config = T5Config::from_json(model_type, &json).unwrap();
            drop(T5Encoder::new(&root, &config, Fused).unwrap());
        }
        (ModelType::T5, HeadKind::SequenceClassification) => {
            let config = T5Config::from_json(model_type, &json).unwrap();
            drop(T5EncoderForSequenceClassification::new(&root, &config, 3, Fused).unwrap());
        }
        (ModelType::T5, _) => {
            let config = T5Config::from_json(model_type, &json).unwrap();
            drop(T5::new(&root, &config, Fused).unwrap());
        }
        (_, HeadKind::MaskedLm) => drop(BertForMaskedLm::new(&root, &bert(), Fused).unwrap()),
        (ModelType::Electra, HeadKind::PreTraining) => {
            drop(BertForReplacedTokens::new(&root, &bert(), Fused).unwrap());
        }
        (_, HeadKind::PreTraining) => drop(BertForPreTraining::new(&root, &bert(), Fused).unwrap()),
        (_, HeadKind::SequenceClassification) => {
            drop(BertForSequenceClassification::new(&root, &bert(), 3, Fused).unwrap());
        }
        (_, HeadKind::TokenClassification) => {
            drop(BertForTokenClassification::new(&root, &bert(), 3, Fused).unwrap());
        }
        (_, HeadKind::QuestionAnswering) => {
            drop(BertForQuestionAnswering::new(&root, &bert(), Fused).unwrap());
        }
        _ => drop(BertModel::new(&(&root / "bert"), &bert(), Fused).unwrap()),
    }
    drop(root);
    store
}

/// Saves, loads into another start, saves again: the same bytes.
fn check_round_trip<C: PretrainedConfig>(
    config: &C,
    architecture: Architecture,
    extra: Value,
    name: &str,
) {
    let kept = std::env::var_os("BERT4RS_KEEP_FOLDERS").map(PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let first = kept.unwrap_or_else(|| temporary.path().to_owned()).join(name);
    random::seed(1);
    let from = made(config, architecture);
    round_trip(config, architecture, extra, &from, [&first, &temporary.path().join("again")]);
}

/// Saves `from` in the first folder, loads that, saves it in the second: the same bytes.
fn round_trip<C: PretrainedConfig>(
    config: &C,
    architecture: Architecture,
    extra: Value,
    from: &ParamStore,
    [first, second]: [&Path; 2],
) {
    std::fs::create_dir_all(first).unwrap();
    std::fs::create_dir_all(second).unwrap();
    save(first, config, architecture, from, extra.clone()).unwrap();
    let folder = Folder::open(first).unwrap();
    assert_eq!(folder.architecture().unwrap(), architecture);
    let config: C = folder.config().unwrap();
    let mut into = made(&config, architecture);
    let loaded = folder.load(&config, &mut into, &[]).unwrap();
    assert!(loaded.fresh.is_empty() && loaded.unused.is_empty(), "{architecture:?}: {loaded:?}");
    save(second, &config, architecture, &into, extra).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
        assert_eq!(read(first), read(second), "{architecture:?}/{file}");
    }
}

/// [`round_trip`] of weights far from their start.
fn check_any<C: PretrainedConfig>(config: &C, architecture: Architecture, extra: Value) {
    let mut from = made(config, architecture);
    sharpen(&mut from);
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    round_trip(config, architecture, extra, &from, [&first, &second]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_model_saves_loads_and_saves_to_the_same_bytes(
        seed in any::<u64>(), overrides in overrides(), published in any::<bool>(),
        vocabulary in 8i64..70, layers in 1i64..4, decoder_layers in prop::option::of(1i64..4),
        tied in any::<bool>(), head in 0usize..4,
    ) {
        random::seed(seed);
        let overrides = if published { ArchitectureOverrides::default() } else { overrides };
        let bert = BertConfig {
            vocab_size: vocabulary, num_hidden_layers: layers, ..bert(overrides)
        };
        let labels = json!({
            "id2label": {"0": "a", "1": "b", "2": "c"},
            "label2id": {"a": 0, "b": 1, "c": 2},
        });
        let (architecture, extra) = match head {
            0 => (Architecture::BERT_FOR_MASKED_LM, json!({})),
            1 => (class(ModelType::Bert, HeadKind::PreTraining), json!({})),
            2 => (class(ModelType::Bert, HeadKind::SequenceClassification), labels),
            _ => (class(ModelType::Bert, HeadKind::QuestionAnswering), json!({})),
        };
        check_any(&bert, architecture, extra);
        let gpt = GptConfig { vocab_size: vocabulary, n_layer: layers, ..gpt(overrides) };
        check_any(&gpt, Architecture::GPT2_LM_HEAD_MODEL, json!({}));
        let t5 = T5Config {
            vocab_size: vocabulary, num_layers: layers, num_decoder_layers: decoder_layers,
            tie_word_embeddings: tied, ..t5(overrides)
        };
        check_any(&t5, Architecture::T5_FOR_CONDITIONAL_GENERATION, json!({}));
    }
}

#[test]
fn saving_loading_and_saving_gives_the_same_bytes() {
    let labels = json!({
        "id2label": {"0": "a", "1": "b", "2": "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
    });
    let bert: BertConfig = Vectors::load("bert").config();
    check_round_trip(&bert, Architecture::BERT_FOR_MASKED_LM, json!({}), "bert-mlm");
    check_round_trip(
        &bert,
        class(ModelType::Bert, HeadKind::PreTraining),
        json!({}),
        "bert-pretraining",
    );
    let classes = class(ModelType::Bert, HeadKind::SequenceClassification);
    check_round_trip(&bert, classes, labels.clone(), "bert-classes");
    check_round_trip(
        &bert,
        class(ModelType::Bert, HeadKind::TokenClassification),
        labels,
        "bert-tokens",
    );
    check_round_trip(
        &bert,
        class(ModelType::Bert, HeadKind::QuestionAnswering),
        json!({}),
        "bert-answers",
    );
    let gpt: GptConfig = Vectors::load("gpt2").config();
    check_round_trip(&gpt, Architecture::GPT2_LM_HEAD_MODEL, json!({}), "gpt2");
    let t5 = Architecture::T5_FOR_CONDITIONAL_GENERATION;
    check_round_trip(&Vectors::load("t5_1_0").config::<T5Config>(), t5, json!({}), "t5-1-0");
    check_round_trip(&Vectors::load("t5_1_1").config::<T5Config>(), t5, json!({}), "t5-1-1");
}

#[test]
fn a_switched_model_says_that_transformers_does_not_have_it() {
    let overrides = ArchitectureOverrides {
        qk_norm: true,
        window: Some(8),
        ..ArchitectureOverrides::default()
    };
    let config = BertConfig { overrides, ..Vectors::load("bert").config() };
    let folder = tempfile::tempdir().unwrap();
    let from = made(&config, Architecture::BERT_FOR_MASKED_LM);
    save(folder.path(), &config, Architecture::BERT_FOR_MASKED_LM, &from, json!({})).unwrap();
    let folder = Folder::open(folder.path()).unwrap();
    assert_eq!(folder.raw_config()["model_type"], "bert4rs-bert");
    assert_eq!(folder.config::<BertConfig>().unwrap(), config);
}

/// A folder with a tiny BERT's configuration, changed by `change`, and these weights.
fn folder_with(change: Value, weights: &[(String, Tensor)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config: BertConfig = Vectors::load("bert").config();
    let mut json = serde_json::to_value(&config).unwrap();
    let object = json.as_object_mut().unwrap();
    object.insert("model_type".into(), "bert".into());
    object.insert("architectures".into(), json!(["BertForMaskedLM"]));
    object.extend(change.as_object().cloned().unwrap_or_default());
    std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
    let weights: Vec<_> = weights.iter().map(|(name, x)| (name.clone(), x)).collect();
    safetensors::save(&folder.path().join("model.safetensors"), &weights, None).unwrap();
    folder
}

fn bert_weights() -> Vec<(String, Tensor)> {
    Vectors::load("bert").under("weight.").into_iter().collect()
}

fn load_bert(folder: &Path) -> bert4rs_models::Result<ParamStore> {
    let folder = Folder::open(folder)?;
    let config: BertConfig = folder.config()?;
    let mut store = made(&config, Architecture::BERT_FOR_MASKED_LM);
    folder.load(&config, &mut store, &["cls."])?;
    Ok(store)
}

#[test]
fn older_and_headless_names_are_found() {
    let want = load_bert(folder_with(json!({}), &bert_weights()).path()).unwrap();
    let older = bert_weights().into_iter().map(|(name, x)| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        (name.replace("LayerNorm.bias", "LayerNorm.beta"), x)
    });
    let headless = bert_weights().into_iter().filter_map(|(name, x)| {
        let name = name.strip_prefix("bert.")?.to_owned();
        Some((name, x))
    });
    for weights in [older.collect::<Vec<_>>(), headless.collect()] {
        let found = load_bert(folder_with(json!({}), &weights).path()).unwrap();
        for (found, want) in found.params().iter().zip(want.params().iter()) {
            assert!(found.weight == want.weight || found.name.starts_with("cls."), "{}", want.name);
        }
    }
}

#[test]
fn an_encoder_takes_its_weights_from_a_model_with_a_head() {
    let directory = folder_with(json!({}), &bert_weights());
    let folder = Folder::open(directory.path()).unwrap();
    let config: BertConfig = folder.config().unwrap();
    let mut store = made(&config, Architecture::without_head(ModelType::Bert));
    let loaded = folder.load(&config, &mut store, &[]).unwrap();
    assert!(loaded.unused.iter().all(|name| name.starts_with("cls.")), "{loaded:?}");
    assert!(!loaded.unused.is_empty());
}

#[test]
fn shards_are_read_by_their_index() {
    let directory = folder_with(json!({}), &bert_weights());
    let path = directory.path();
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    let weights = bert_weights();
    for (number, part) in weights.chunks(weights.len().div_ceil(2)).enumerate() {
        let file = format!("model-0000{number}.safetensors");
        let tensors: Vec<_> = part.iter().map(|(name, x)| (name.clone(), x)).collect();
        safetensors::save(&path.join(&file), &tensors, None).unwrap();
        map.extend(part.iter().map(|(name, _)| (name.clone(), Value::from(file.clone()))));
    }
    let index = path.join("model.safetensors.index.json");
    std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    load_bert(path).unwrap();

    let text = json!({ "weight_map": { "x": "../elsewhere.safetensors" } }).to_string();
    std::fs::write(&index, text).unwrap();
    let text = load_bert(path).unwrap_err().to_string();
    assert!(text.contains("index.json") && text.contains("../elsewhere"), "{text}");
}

#[track_caller]
fn check_refused(folder: &TempDir, words: &[&str]) {
    let text = load_bert(folder.path()).unwrap_err().to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn all_that_is_wrong_with_the_weights_is_one_error() {
    let mut weights = bert_weights();
    weights.retain(|(name, _)| !name.contains("layer.1.output.dense"));
    for (name, x) in &mut weights {
        if name.ends_with("word_embeddings.weight") {
            *x = x.narrow(0, 0, 5);
        }
    }
    let words = [
        "layer.1.output.dense.weight is missing",
        "layer.1.output.dense.bias is missing",
        "word_embeddings.weight has shape [5, 12], expected [23, 12]",
    ];
    check_refused(&folder_with(json!({}), &weights), &words);
    let mut weights = bert_weights();
    weights.push(("cls.predictions.decoder.weight".into(), weights[0].1.zeros_like()));
    check_refused(&folder_with(json!({}), &weights), &["decoder.weight differs from"]);
}

#[test]
fn other_configurations_are_refused() {
    let check = |change: Value, words: &[&str]| {
        check_refused(&folder_with(change, &bert_weights()), &[words, &["config"]].concat());
    };
    check(json!({ "model_type": "gpt2" }), &["gpt2", "bert"]);
    check(json!({ "model_type": 5 }), &["model_type", "5"]);
    check(json!({ "num_hidden_layers": 1_000_000_000 }), &["num_hidden_layers = 1000000000"]);
    check(json!({ "num_hidden_layers": 3 }), &["num_hidden_layers = 3", "2 blocks"]);
    check(json!({ "hidden_size": "big" }), &["hidden_size", "big"]);
    check(json!({ "hidden_act": "gelu_fancy" }), &["hidden_act", "gelu_fancy"]);
    check(json!({ "position_embedding_type": "relative_key" }), &["relative_key", "absolute"]);
    check(json!({ "is_decoder": true }), &["is_decoder = true"]);
    check(json!({ "num_attention_heads": 5 }), &["num_attention_heads = 5"]);
    check(json!({ "bert4rs": { "qk_nrom": true } }), &["qk_nrom"]);
    let folder = folder_with(json!({ "architectures": ["FooModel"] }), &[]);
    let text = Folder::open(folder.path()).unwrap().architecture().unwrap_err().to_string();
    assert!(text.contains("FooModel") && text.contains("BertForMaskedLM"), "{text}");
}

/// Early published BERTs say neither their class nor their family.
#[test]
fn what_the_configuration_leaves_out_is_told_by_the_weights() {
    let unsaid = json!({ "architectures": null, "model_type": null });
    let folder = folder_with(unsaid.clone(), &bert_weights());
    let opened = Folder::open(folder.path()).unwrap();
    assert_eq!(opened.architecture().unwrap(), Architecture::BERT_FOR_MASKED_LM);
    load_bert(folder.path()).unwrap();
    let headless = bert_weights().into_iter().filter_map(|(name, x)| {
        let name = name.strip_prefix("bert.")?.to_owned();
        Some((name, x))
    });
    let folder = folder_with(unsaid.clone(), &headless.collect::<Vec<_>>());
    let found = Folder::open(folder.path()).unwrap().architecture().unwrap();
    assert_eq!(found, Architecture::without_head(ModelType::Bert));
    let folder = folder_with(unsaid, &[]);
    let text = Folder::open(folder.path()).unwrap().architecture().unwrap_err().to_string();
    assert!(text.contains("architectures is null") && text.contains("GPT2LMHeadModel"), "{text}");
    let folder = folder_with(json!({ "architectures": ["BertForMultipleChoice"] }), &[]);
    let opened = Folder::open(folder.path()).unwrap();
    assert!(opened.architecture().is_err());
    let encoder = opened.encoder_architecture().unwrap();
    assert_eq!(encoder, Architecture::without_head(ModelType::Bert));
}

/// A loaded model's folder is whole when it is saved: it loads, with its tokenizer, and gives the
/// same weights.
#[test]
fn a_loaded_model_is_saved_as_a_whole_folder() {
    for name in ["bert", "relative_gpt2", "t5_1_1"] {
        let vectors = Vectors::load(name);
        let source = tempfile::tempdir().unwrap();
        let config: Value = vectors.config();
        std::fs::write(source.path().join("config.json"), config.to_string()).unwrap();
        std::fs::write(source.path().join("vocab.txt"), "[PAD]\n").unwrap();
        let weights = vectors.under("weight.");
        let stored: Vec<_> = weights.iter().map(|(name, x)| (name.clone(), x)).collect();
        safetensors::save(&source.path().join("model.safetensors"), &stored, None).unwrap();
        let model = Pretrained::load(source.path(), LoadOptions::default()).unwrap();
        let saved = source.path().join("saved");
        model.save(&saved).unwrap();
        let again = Pretrained::load(&saved, LoadOptions::default()).unwrap();
        assert_eq!(again.architecture(), model.architecture());
        assert_eq!(std::fs::read(saved.join("vocab.txt")).unwrap(), b"[PAD]\n");
        let found = Folder::open(&saved).unwrap();
        assert_eq!(found.tensors().len(), weights.len(), "{name}");
        assert!(weights.iter().all(|(name, x)| found.tensors()[name] == *x), "{name}");
        let text = model.save(source.path()).unwrap_err().to_string();
        assert!(text.contains("read from here"), "{text}");
    }
}

/// Tied weights may be stored under either name, or both.
#[test]
fn tied_weights_are_found_under_the_name_of_their_copy() {
    let cases = [
        ("bert", "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("gpt2", "transformer.wte.weight", "lm_head.weight"),
        ("t5_1_0", "shared.weight", "lm_head.weight"),
        ("t5_1_0", "shared.weight", "decoder.embed_tokens.weight"),
        ("relative_roberta", "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
        ("relative_modernbert", "model.embeddings.tok_embeddings.weight", "decoder.weight"),
    ];
    for (name, table, copy) in cases {
        let vectors = Vectors::load(name);
        let weights: Vec<_> = vectors.under("weight.").into_iter().collect();
        let renamed = weights.iter().map(|(name, x)| {
            (if name == table { copy } else { name }.to_owned(), x.shallow_clone())
        });
        let mut both: Vec<_> =
            weights.iter().map(|(n, x)| (n.clone(), x.shallow_clone())).collect();
        both.push((copy.to_owned(), vectors.tensor(&format!("weight.{table}")).shallow_clone()));
        for stored in [renamed.collect::<Vec<_>>(), both] {
            let folder = tempfile::tempdir().unwrap();
            let config: Value = vectors.config();
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            let stored: Vec<_> = stored.iter().map(|(name, x)| (name.clone(), x)).collect();
            safetensors::save(&folder.path().join("model.safetensors"), &stored, None).unwrap();
            let model = Pretrained::load(folder.path(), LoadOptions::default()).unwrap();
            let params = model.params().params();
            let found = params.iter().find(|param| param.name == table).unwrap();
            let wanted = vectors.tensor(&format!("weight.{table}"));
            assert!(found.weight == *wanted, "{name}: {copy}");
        }
    }
}

#[test]
fn weights_of_whole_numbers_are_refused() {
    let mut weights = bert_weights();
    for (name, x) in &mut weights {
        if name.ends_with("layer.0.output.dense.weight") {
            *x = x.to_kind(Kind::Int8);
        }
    }
    let words = ["layer.0.output.dense.weight", "Int8", "quantised"];
    check_refused(&folder_with(json!({}), &weights), &words);
}

#[test]
fn pointers_pipes_and_folders_are_no_weights() {
    let folder = folder_with(json!({}), &bert_weights());
    let weights = folder.path().join("model.safetensors");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    std::fs::write(&weights, pointer).unwrap();
    check_refused(&folder, &["model.safetensors", "Git LFS pointer", "git lfs pull"]);
    std::fs::remove_file(&weights).unwrap();
    std::fs::create_dir(&weights).unwrap();
    check_refused(&folder, &["model.safetensors", "is a folder"]);
    std::fs::remove_dir(&weights).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/dev/zero", &weights).unwrap();
        check_refused(&folder, &["model.safetensors", "a pipe or a device"]);
    }
    let config = folder.path().join("config.json");
    std::fs::write(&config, pointer).unwrap();
    check_refused(&folder, &["config.json", "Git LFS pointer"]);
}

#[test]
fn files_that_are_no_weights_are_refused() {
    let folder = folder_with(json!({}), &bert_weights());
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    check_refused(&folder, &["model.safetensors"]);
    std::fs::remove_file(&weights).unwrap();
    check_refused(&folder, &["neither model.safetensors nor"]);
    std::fs::write(folder.path().join("pytorch_model.bin"), b"\x80\x02").unwrap();
    check_refused(&folder, &["pytorch_model.bin", "pickle", "save_pretrained"]);
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    check_refused(&folder, &["config.json", "JSON"]);
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    check_refused(&folder, &["config.json"]);
}
