//! BERT's relatives, and GPT and T5 with other heads, read from folders: results, losses and
//! gradients against transformers' recorded ones.

use std::collections::BTreeMap;

use bert4rs_models::bert::{BertConfig, BertForMaskedLm};
use bert4rs_models::hugging_face::{Folder, HeadKind, save};
use bert4rs_models::pretrained::{
    Inputs, LoadOptions, Model, OldHead, Outputs, Pretrained, SequenceRows,
};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor, safetensors};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Vectors, assert_close, assert_close_where, max_abs};

const INPUTS: [&str; 6] =
    ["input_ids", "attention_mask", "token_type_ids", "labels", "start_positions", "end_positions"];

/// The folder of a recorded model; with a head, that model's configuration and parameters.
fn folder(vectors: &Vectors, head: Option<&str>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config: Value = vectors.config();
    let mut weights = vectors.under("weight.");
    if let Some(head) = head {
        let change = config[format!("{head}.config")].clone();
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        weights.extend(vectors.under(&format!("{head}.weight.")));
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let weights: Vec<_> = weights.iter().map(|(name, x)| (name.clone(), x)).collect();
    safetensors::save(&folder.path().join("model.safetensors"), &weights, None).unwrap();
    folder
}

/// The recorded inputs, whose names begin with `prefix`, through the model.
fn run(model: &Pretrained, vectors: &Vectors, prefix: &str) -> Outputs {
    let given = vectors.under(prefix);
    let named: BTreeMap<String, Tensor> = given
        .iter()
        .filter(|(name, _)| INPUTS.contains(&name.as_str()))
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
        .collect();
    let inputs = Inputs::new(model.architecture(), &named, Device::Cpu).unwrap();
    model.forward(&inputs).unwrap()
}

fn output<'a>(outputs: &'a Outputs, name: &str) -> &'a Tensor {
    let mut named = outputs.named.iter();
    &named.find(|(found, _)| *found == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// Holds each gradient against the recorded one, within 1e-4 of its largest value; those that were
/// not recorded are left out.
fn check_gradients(model: &Pretrained, loss: &Tensor, wanted: &BTreeMap<String, Tensor>) {
    let found: BTreeMap<_, _> = model.gradients(loss).unwrap().into_iter().collect();
    assert!(!wanted.is_empty());
    for (name, wanted) in wanted {
        let off = max_abs(&(&found[name] - wanted)) / max_abs(wanted).max(1e-3);
        assert!(off <= 1e-4, "gradient of {name}: off by {off:.1e}");
    }
}

/// Holds a head for classes against the recorded logits where its sequences lie side by side in one
/// row, without their padding; other heads are left out.
fn check_packed(model: &Pretrained, wanted: &BTreeMap<String, Tensor>) {
    let (ids, keep) = (&wanted["input_ids"], &wanted["attention_mask"]);
    let t = ids.size()[1];
    let places = keep.flatten(0, 1).nonzero().squeeze_dim(1);
    let row = |grid: &Tensor| grid.reshape([-1]).index_select(0, &places).unsqueeze(0);
    let sequences = Tensor::arange(ids.size()[0], (Kind::Int64, Device::Cpu));
    let lengths = keep.sum_dim_intlist(1i64, false, Kind::Int64);
    let positions = Tensor::arange(t, (Kind::Int64, Device::Cpu)) + model.first_position();
    let types = wanted.get("token_type_ids").map(row);
    let rows = SequenceRows {
        input_ids: &row(ids),
        token_type_ids: types.as_ref(),
        position_ids: &row(&positions.expand_as(ids)),
        sequence_ids: &row(&sequences.unsqueeze(1).expand_as(ids)),
        first: &(lengths.cumsum(0, Kind::Int64) - &lengths),
        lengths: &lengths,
    };
    match model.model() {
        Model::Classes(..) | Model::T5Classes(..) => {
            let found = model.sequence_logits(&rows, false).unwrap();
            assert_close("packed classes", &found, &wanted["logits"], 1e-5);
        }
        Model::TokenClasses(_) => {
            let found = model.token_logits(&rows, false).unwrap();
            let logits = wanted["logits"].flatten(0, 1).index_select(0, &places);
            assert_close("packed tags", &found, &logits, 1e-5);
        }
        Model::Answers(_) => {
            let found = model.answer_logits(&rows, false).unwrap();
            for (output, name) in ["start_logits", "end_logits"].into_iter().enumerate() {
                let logits = wanted[name].flatten(0, 1).index_select(0, &places);
                assert_close(name, &found.select(1, output as i64), &logits, 1e-5);
            }
        }
        _ => {}
    }
}

/// The model that is pretrained, then each of its heads.
fn check(family: &str, heads: &[&str]) {
    let vectors = Vectors::load(family);
    for attention in [AttentionImplementation::Plain, AttentionImplementation::Fused] {
        let options = LoadOptions { attention, ..LoadOptions::default() };
        let path = folder(&vectors, None);
        let model = Pretrained::load(path.path(), options).unwrap();
        let outputs = run(&model, &vectors, "");
        let keep = vectors.tensor("attention_mask");
        for name in ["last_hidden_state", "logits"] {
            let wanted = vectors.tensor(name);
            assert_close_where(name, output(&outputs, name), wanted, keep, 1e-5);
        }
        let loss = outputs.loss.unwrap();
        assert_close("loss", &loss, vectors.tensor("loss"), 1e-5);
        check_gradients(&model, &loss, &vectors.under("grad."));
        for head in heads {
            let path = folder(&vectors, Some(head));
            let model = Pretrained::load(path.path(), options).unwrap();
            let outputs = run(&model, &vectors, &format!("{head}."));
            let wanted = vectors.under(&format!("{head}."));
            // Padding attends to nothing in a window of padding, and has no result to compare.
            let keep = wanted["attention_mask"].to_kind(Kind::Float);
            for name in ["logits", "start_logits", "end_logits"] {
                let Some(wanted) = wanted.get(name) else { continue };
                let found = output(&outputs, name);
                let what = format!("{head}: {name}");
                match wanted.size()[..] {
                    [b, t] if [b, t] == keep.size()[..] => {
                        assert_close(&what, &(found * &keep), &(wanted * &keep), 1e-5);
                    }
                    [_, _] => assert_close(&what, found, wanted, 1e-5),
                    _ => assert_close_where(&what, found, wanted, &keep, 1e-5),
                }
            }
            check_packed(&model, &wanted);
            let loss = outputs.loss.unwrap();
            // These two losses count ModernBERT's padding too.
            let counts_padding =
                family.ends_with("modernbert") && ["tokens", "answers"].contains(head);
            if !counts_padding {
                assert_close(&format!("{head}: loss"), &loss, &wanted["loss"], 1e-5);
                check_gradients(&model, &loss, &vectors.under(&format!("{head}.grad.")));
            }
        }
    }
}

#[test]
fn roberta_equals_transformers() {
    check("relative_roberta", &["classes", "tokens", "answers", "several", "number"]);
}

#[test]
fn distilbert_equals_transformers() {
    check("relative_distilbert", &["classes", "tokens", "answers"]);
}

#[test]
fn electra_equals_transformers() {
    check("relative_electra", &["classes", "tokens", "answers", "replaced"]);
}

#[test]
fn modernbert_equals_transformers() {
    check("relative_modernbert", &["classes", "mean", "tokens", "answers"]);
}

#[test]
fn gpt_with_a_classifier_equals_transformers() {
    check("relative_gpt2", &["classes", "number"]);
}

#[test]
fn the_encoder_of_t5_equals_transformers() {
    let vectors = Vectors::load("relative_t5_encoder");
    let path = folder(&vectors, None);
    let model = Pretrained::load(path.path(), LoadOptions::default()).unwrap();
    let outputs = run(&model, &vectors, "");
    let (name, keep) = ("last_hidden_state", vectors.tensor("attention_mask"));
    assert_close_where(name, output(&outputs, name), vectors.tensor(name), keep, 1e-5);
}

/// transformers has no such class: its encoder's recorded states, through the formula of its head.
#[test]
fn classes_of_t5_are_its_head_on_the_mean_of_real_tokens() {
    let vectors = Vectors::load("relative_t5_encoder");
    let path = folder(&vectors, None);
    let mut opened = Folder::open(path.path()).unwrap();
    opened.set("id2label", serde_json::json!({ "0": "a", "1": "b", "2": "c" }));
    let head = HeadKind::SequenceClassification;
    let attention = AttentionImplementation::Fused;
    let params = ParamStore::new(Device::Cpu, Kind::Float);
    let (model, loaded) =
        Pretrained::with_head(&opened, head, OldHead::Kept, attention, params).unwrap();
    let names = ["dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"];
    assert_eq!(loaded.fresh, names.map(|name| format!("classification_head.{name}")));
    let [dense, dense_bias, last, last_bias] = names.map(|name| {
        let params = model.params().params();
        let named = |param: &&bert4rs_tensor_core::param::Param| param.name.ends_with(name);
        params.iter().find(named).unwrap().weight.shallow_clone()
    });
    let (ids, keep) = (vectors.tensor("input_ids"), vectors.tensor("attention_mask"));
    let real = keep.to_kind(Kind::Float).unsqueeze(2);
    let states = vectors.tensor("last_hidden_state");
    let sum = (states * &real).sum_dim_intlist(1i64, false, None);
    let mean = sum / real.sum_dim_intlist(1i64, false, None);
    let inner = (mean.matmul(&dense.transpose(0, 1)) + dense_bias).tanh();
    let logits = inner.matmul(&last.transpose(0, 1)) + last_bias;

    let outputs = run(&model, &vectors, "");
    assert_close("classes", output(&outputs, "logits"), &logits, 1e-5);
    let wanted = [("input_ids", ids), ("attention_mask", keep), ("logits", &logits)];
    let wanted = wanted.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
    check_packed(&model, &wanted.into());

    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path()).unwrap();
    let again = Pretrained::load(saved.path(), LoadOptions::default()).unwrap();
    assert_eq!(again.architecture().to_string(), "T5EncoderForSequenceClassification");
    assert_close("again", output(&run(&again, &vectors, ""), "logits"), &logits, 1e-5);
}

/// XLM-R is RoBERTa under another name, with RoBERTa's names of parameters.
#[test]
fn xlm_r_is_read_as_roberta() {
    let vectors = Vectors::load("relative_roberta");
    let path = folder(&vectors, None);
    let mut config: Value = vectors.config();
    config["model_type"] = "xlm-roberta".into();
    config["architectures"] = serde_json::json!(["XLMRobertaForMaskedLM"]);
    std::fs::write(path.path().join("config.json"), config.to_string()).unwrap();
    let model = Pretrained::load(path.path(), LoadOptions::default()).unwrap();
    assert_eq!(model.architecture().to_string(), "XLMRobertaForMaskedLM");
    assert_close("loss", &run(&model, &vectors, "").loss.unwrap(), vectors.tensor("loss"), 1e-5);
}

/// What transformers wrote is read, written, and read again as the same configuration and weights.
#[test]
fn relatives_are_saved_with_their_own_keys() {
    for family in ["roberta", "distilbert", "electra", "modernbert"] {
        let vectors = Vectors::load(&format!("relative_{family}"));
        let first = folder(&vectors, None);
        let read = Folder::open(first.path()).unwrap();
        let architecture = read.architecture().unwrap();
        let config: BertConfig = read.config().unwrap();
        let mut store = ParamStore::new(Device::Cpu, Kind::Float);
        let _model =
            BertForMaskedLm::new(&store.root(), &config, AttentionImplementation::Plain).unwrap();
        let loaded = read.load(&config, &mut store, &[]).unwrap();
        assert!(loaded.unused.is_empty(), "{family}: {loaded:?}");
        let second = tempfile::tempdir().unwrap();
        save(second.path(), &config, architecture, &store, serde_json::json!({})).unwrap();
        let again = Folder::open(second.path()).unwrap();
        assert_eq!(again.architecture().unwrap(), architecture);
        assert_eq!(again.config::<BertConfig>().unwrap(), config, "{family}");
        assert_eq!(again.raw_config()["model_type"], family);
        let names: Vec<_> = again.tensors().keys().cloned().collect();
        assert_eq!(names, vectors.under("weight.").into_keys().collect::<Vec<_>>(), "{family}");
    }
}

#[test]
fn a_class_named_nowhere_is_told_by_the_weights() {
    let cases = [
        ("relative_roberta", None, "RobertaForMaskedLM"),
        ("relative_roberta", Some("classes"), "RobertaForSequenceClassification"),
        ("relative_roberta", Some("tokens"), "RobertaForTokenClassification"),
        ("relative_distilbert", Some("answers"), "DistilBertForQuestionAnswering"),
        ("relative_gpt2", Some("classes"), "GPT2ForSequenceClassification"),
        ("relative_t5_encoder", None, "T5EncoderModel"),
    ];
    for (family, head, wanted) in cases {
        let vectors = Vectors::load(family);
        let path = folder(&vectors, head);
        let mut config: Value = vectors.config();
        config.as_object_mut().unwrap().remove("architectures");
        let file = path.path().join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        // A head's folder has the weights of the pretraining head too: take those away.
        if head.is_some() {
            let tensors = Folder::open(path.path()).unwrap();
            let kept = tensors
                .tensors()
                .iter()
                .filter(|(name, _)| !name.starts_with("lm_head") && !name.starts_with("vocab_"));
            let kept: Vec<_> = kept.map(|(name, x)| (name.clone(), x)).collect();
            safetensors::save(&path.path().join("model.safetensors"), &kept, None).unwrap();
        }
        let found = Folder::open(path.path()).unwrap().architecture().unwrap();
        assert_eq!(found.to_string(), wanted);
    }
}

#[test]
fn a_new_head_stands_on_the_old_encoder_and_what_fits_is_kept() {
    let attention = AttentionImplementation::Fused;
    let store = || ParamStore::new(Device::Cpu, Kind::Float);
    let vectors = Vectors::load("relative_roberta");
    let head = HeadKind::SequenceClassification;
    let path = folder(&vectors, None);
    let pretrained = Folder::open(path.path()).unwrap();
    let (_, loaded) =
        Pretrained::with_head(&pretrained, head, OldHead::Kept, attention, store()).unwrap();
    let drawn = ["dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"];
    assert_eq!(loaded.fresh, drawn.map(|name| format!("classifier.{name}")));
    assert!(loaded.unused.iter().any(|name| name.starts_with("lm_head.")), "{loaded:?}");

    let path = folder(&vectors, Some("classes"));
    let mut classifier = Folder::open(path.path()).unwrap();
    let fresh = |folder: &Folder, old| {
        Pretrained::with_head(folder, head, old, attention, store()).unwrap().1.fresh
    };
    assert!(fresh(&classifier, OldHead::Kept).is_empty());
    let outputs = ["classifier.out_proj.weight", "classifier.out_proj.bias"];
    assert_eq!(fresh(&classifier, OldHead::NewOutputs), outputs);
    // One class more than the folder's head has.
    let names = serde_json::json!({ "0": "a", "1": "b", "2": "c", "3": "d" });
    classifier.set("id2label", names);
    assert_eq!(fresh(&classifier, OldHead::Kept), outputs);
    let wrong = HeadKind::CausalLm;
    let error = Pretrained::with_head(&classifier, wrong, OldHead::Kept, attention, store());
    assert!(error.unwrap_err().to_string().contains("GPT2LMHeadModel"));
}
