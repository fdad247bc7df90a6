//! Sentence embeddings: pooling against sentence-transformers' recorded results, and what its
//! folders say.

use std::path::Path;

use bert4rs_models::embedding::{Pooling, SentenceEncoder};
use bert4rs_models::pretrained::LoadOptions;
use bert4rs_tensor_core::{Tensor, safetensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Vectors, assert_close, max_abs, vectors_folder};

#[test]
fn every_mode_equals_sentence_transformers() {
    let kept = safetensors::load(&vectors_folder().join("embeddings.safetensors")).unwrap();
    let mut modes = 0;
    for (name, wanted) in &kept {
        let (mode, left_out) = match name.strip_suffix(".without_prompt") {
            Some(mode) => (mode, 2),
            None => (name.as_str(), 0),
        };
        let Ok(pooling) = mode.parse::<Pooling>() else { continue };
        let found = pooling.forward(&kept["hidden"], &kept["keep"], left_out).unwrap();
        assert_close(name, &found, wanted, 1e-6);
        modes += 1;
    }
    assert_eq!(modes, 14);
    let text = "average".parse::<Pooling>().unwrap_err().to_string();
    assert!(text.contains("average") && text.contains("weightedmean"), "{text}");
}

fn write(folder: &Path, file: &str, value: &Value) {
    let path = folder.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, value.to_string()).unwrap();
}

/// A folder of sentence-transformers around the recorded BERT, with these modules after it.
fn folder(modules: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let vectors = Vectors::load("bert");
    let mut config: Value = vectors.config();
    config["architectures"] = json!(["BertForMultipleChoice"]);
    write(folder.path(), "config.json", &config);
    let weights = vectors.under("weight.");
    let weights: Vec<_> = weights.iter().map(|(name, x)| (name.clone(), x)).collect();
    safetensors::save(&folder.path().join("model.safetensors"), &weights, None).unwrap();
    let entries = modules.iter().enumerate().map(|(index, (path, class))| {
        json!({"idx": index, "name": index.to_string(), "path": path, "type": class})
    });
    write(folder.path(), "modules.json", &entries.collect());
    folder
}

const TRANSFORMER: (&str, &str) = ("", "sentence_transformers.models.Transformer");
const POOLING: (&str, &str) = ("1_Pooling", "sentence_transformers.models.Pooling");
const NORMALIZE: (&str, &str) = ("2_Normalize", "sentence_transformers.models.Normalize");

fn load(folder: &TempDir) -> bert4rs_models::Result<SentenceEncoder> {
    SentenceEncoder::load(folder.path(), LoadOptions::default())
}

fn texts() -> Vec<Vec<u32>> {
    vec![vec![2, 7, 9, 11, 3], vec![2, 5, 3], vec![2, 8, 8, 4, 10, 12, 3]]
}

#[test]
fn the_folder_says_how_vectors_are_made() {
    let path = folder(&[TRANSFORMER, POOLING, NORMALIZE]);
    let flags = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false});
    write(path.path(), "1_Pooling/config.json", &flags);
    let first = load(&path).unwrap().embed(&texts(), 2).unwrap();
    let lengths = first.norm_scalaropt_dim(2, [-1i64].as_slice(), false);
    assert_close("lengths", &lengths, &lengths.ones_like(), 1e-6);

    // The same, said by hand of a folder that says nothing.
    let plain = folder(&[TRANSFORMER]);
    std::fs::remove_file(plain.path().join("modules.json")).unwrap();
    let mut encoder = load(&plain).unwrap();
    let mean = encoder.embed(&texts(), 32).unwrap();
    encoder.set_pooling("cls".parse().unwrap());
    encoder.normalize();
    let by_hand = encoder.embed(&texts(), 1).unwrap();
    assert_close("first tokens", &first, &by_hand, 1e-6);
    assert!(max_abs(&(&first - mean)) > 0.1, "means are something else");

    write(path.path(), "1_Pooling/config.json", &json!({"pooling_mode": ["cls", "max"]}));
    assert_eq!(load(&path).unwrap().embed(&texts(), 2).unwrap().size(), [3, 24]);
}

#[test]
fn a_dense_module_is_computed() {
    let kept = safetensors::load(&vectors_folder().join("embeddings.safetensors")).unwrap();
    let class = "sentence_transformers.models.Dense";
    let path = folder(&[TRANSFORMER, POOLING, ("2_Dense", class)]);
    write(path.path(), "1_Pooling/config.json", &json!({"pooling_mode": "mean"}));
    let mut config = json!({"in_features": 12, "out_features": 4, "bias": true,
        "activation_function": "torch.nn.modules.activation.Tanh"});
    write(path.path(), "2_Dense/config.json", &config);
    let file = path.path().join("2_Dense/model.safetensors");
    // The recorded one takes 5 features; the encoder has 12.
    let weight = Tensor::cat(&[&kept["dense.weight"], &kept["dense.weight"].zeros_like()], 1);
    let weight = Tensor::cat(&[weight, kept["dense.weight"].narrow(1, 0, 2)], 1).contiguous();
    let named = |name: &str, tensor| (name.to_owned(), tensor);
    let tensors = [named("linear.weight", &weight), named("linear.bias", &kept["dense.bias"])];
    safetensors::save(&file, &tensors, None).unwrap();
    let found = load(&path).unwrap().embed(&texts(), 2).unwrap();
    let plain = folder(&[TRANSFORMER]);
    let mean = load(&plain).unwrap().embed(&texts(), 2).unwrap();
    let wanted = mean.linear(&weight, Some(&kept["dense.bias"])).tanh();
    assert_close("dense", &found, &wanted, 1e-6);

    config["activation_function"] = "torch.nn.modules.activation.SiLU".into();
    write(path.path(), "2_Dense/config.json", &config);
    refused(&path, &["2_Dense", "config.json", "SiLU", "Tanh"]);
}

#[track_caller]
fn refused(folder: &TempDir, words: &[&str]) {
    let text = load(folder).unwrap_err().to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let path =
        folder(&[TRANSFORMER, ("1_WordWeights", "sentence_transformers.models.WordWeights")]);
    refused(&path, &["modules.json", "WordWeights", "Pooling"]);
    let path = folder(&[("../elsewhere", TRANSFORMER.1)]);
    refused(&path, &["modules.json", "../elsewhere"]);
    let path = folder(&[TRANSFORMER, POOLING]);
    write(path.path(), "1_Pooling/config.json", &json!({"pooling_mode": "median"}));
    refused(&path, &["1_Pooling", "median", "lasttoken"]);
    std::fs::remove_file(path.path().join("1_Pooling/config.json")).unwrap();
    refused(&path, &["1_Pooling", "config.json"]);
}

#[test]
fn prompts_have_names() {
    let path = folder(&[TRANSFORMER, POOLING]);
    write(path.path(), "1_Pooling/config.json", &json!({"pooling_mode": "mean"}));
    let prompts = json!({"prompts": {"query": "Query: "}, "default_prompt_name": null});
    write(path.path(), "config_sentence_transformers.json", &prompts);
    let encoder = load(&path).unwrap();
    assert_eq!(encoder.prompt(None).unwrap(), "");
    assert_eq!(encoder.text(encoder.prompt(Some("query")).unwrap(), "What?"), "Query: What?");
    let text = encoder.prompt(Some("passage")).unwrap_err().to_string();
    assert!(text.contains("passage") && text.contains("query"), "{text}");
    let files = json!({"max_seq_length": 5, "do_lower_case": true});
    write(path.path(), "sentence_bert_config.json", &files);
    let encoder = load(&path).unwrap();
    assert_eq!((encoder.text("", "AB"), encoder.max_tokens(Some(3))), ("ab".to_owned(), 5));
}

/// With the prompt left out, texts that differ only in what follows it are pooled over that.
#[test]
fn prompts_can_be_left_out_of_the_pooling() {
    let path = folder(&[TRANSFORMER, POOLING]);
    let config = json!({"pooling_mode": "mean", "include_prompt": false});
    write(path.path(), "1_Pooling/config.json", &config);
    let encoder = load(&path).unwrap();
    assert!(encoder.leaves_prompt_out());
    let with = encoder.embed(&texts(), 2).unwrap();
    let without = encoder.embed_prompted(&texts(), 2, 2).unwrap();
    assert!(max_abs(&(with - without)) > 1e-2);
}

#[test]
fn texts_without_tokens_are_refused() {
    let path = folder(&[TRANSFORMER]);
    let encoder = load(&path).unwrap();
    for (ids, batch_size, word) in
        [(vec![], 2, "texts"), (vec![vec![1], vec![]], 2, "text 1"), (texts(), 0, "batch size")]
    {
        let text = encoder.embed(&ids, batch_size).unwrap_err().to_string();
        assert!(text.contains(word), "{text}");
    }
}
