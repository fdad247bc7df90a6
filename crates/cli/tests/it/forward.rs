//! `bert4rs forward` against results of transformers, and what it refuses.

use bert4rs_tensor_core::{Kind, Tensor, safetensors};

use crate::models::{Tensors, vectors, write_model, write_tensors};
use crate::support::{Outcome, Sandbox};

const INPUTS: [&str; 7] = [
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "decoder_input_ids",
    "decoder_attention_mask",
    "labels",
];

fn forward(sandbox: &Sandbox, model: &str, extra: &[&str]) -> Outcome {
    let args = ["forward", "--model", model, "--input", "in.safetensors"];
    let output = ["--output", "out.safetensors"];
    sandbox.run(&[&args[..], &output, extra].concat())
}

/// Writes the recorded inputs, each changed by `change`.
fn write_inputs(sandbox: &Sandbox, wanted: &Tensors, change: impl Fn(&Tensor) -> Tensor) {
    let named = INPUTS.iter().filter_map(|name| Some((*name, change(wanted.get(*name)?))));
    let named: Vec<_> = named.collect();
    let named: Vec<_> = named.iter().map(|(name, tensor)| (*name, tensor)).collect();
    write_tensors(sandbox, "in.safetensors", &named);
}

fn largest(x: &Tensor) -> f64 {
    x.to_kind(Kind::Double).abs().max().double_value(&[])
}

/// Runs a recorded model and holds every recorded result against the written one. Positions that
/// `keep` names as padding are left out: they were recorded with another attention.
fn check(name: &str, architecture: &str, keep: &str) {
    let sandbox = Sandbox::new();
    let wanted = vectors(name);
    write_model(&sandbox, name, architecture);
    write_inputs(&sandbox, &wanted, Tensor::shallow_clone);
    forward(&sandbox, name, &["--grads"]).succeeds();
    let found = safetensors::load(&sandbox.path("out.safetensors")).unwrap();
    let keep = wanted[keep].unsqueeze(-1);
    for name in ["logits", "last_hidden_state"] {
        let off = largest(&((&found[name] - &wanted[name]) * &keep));
        assert!(off <= 1e-5, "{architecture}: {name} is off by {off}");
    }
    let off = largest(&(&found["loss"] - &wanted["loss"]));
    assert!(off <= 1e-5, "{architecture}: the loss is off by {off}");
    let gradients = wanted.iter().filter(|(name, _)| name.starts_with("grad."));
    for (name, gradient) in gradients.clone() {
        // The gradient of a key's bias is 0 but for rounding.
        let off = largest(&(&found[name] - gradient)) / largest(gradient).max(1e-3);
        assert!(off <= 1e-4, "{architecture}: {name} is off by {off}");
    }
    let count = found.keys().filter(|name| name.starts_with("grad.")).count();
    assert_eq!(count, gradients.count(), "a gradient for each parameter, tied ones once");
}

#[test]
fn results_and_gradients_equal_transformers() {
    check("bert", "BertForMaskedLM", "attention_mask");
    check("gpt2", "GPT2LMHeadModel", "attention_mask");
    check("t5_1_0", "T5ForConditionalGeneration", "decoder_attention_mask");
    check("t5_1_1", "T5ForConditionalGeneration", "decoder_attention_mask");
}

/// As another integer dtype, without labels, and with the decoder's tokens made of labels.
#[test]
fn inputs_may_be_of_any_width_and_partly_absent() {
    let sandbox = Sandbox::new();
    let wanted = vectors("t5_1_0");
    write_model(&sandbox, "t5_1_0", "T5ForConditionalGeneration");
    write_inputs(&sandbox, &wanted, |tensor| tensor.to_kind(Kind::Int));
    forward(&sandbox, "t5_1_0", &[]).succeeds();
    let labels = &wanted["labels"];
    let ids = [("input_ids", &wanted["input_ids"]), ("labels", labels)];
    write_tensors(&sandbox, "in.safetensors", &ids);
    forward(&sandbox, "t5_1_0", &["--overwrite"]).succeeds();
    let loss = |sandbox: &Sandbox| {
        let found = safetensors::load(&sandbox.path("out.safetensors")).unwrap();
        assert!(!found.keys().any(|name| name.starts_with("grad.")));
        found["loss"].double_value(&[])
    };
    let made = loss(&sandbox);
    let (rows, time) = labels.size2().unwrap();
    let start = Tensor::zeros([rows, 1], (Kind::Int64, labels.device()));
    let rest = labels.narrow(1, 0, time - 1);
    let shifted = Tensor::cat(&[start, rest.masked_fill(&rest.eq(-100), 0)], 1);
    let all = [ids[0], ids[1], ("decoder_input_ids", &shifted)];
    write_tensors(&sandbox, "in.safetensors", &all);
    forward(&sandbox, "t5_1_0", &["--overwrite"]).succeeds();
    assert_eq!(made, loss(&sandbox));
}

#[test]
fn an_encoder_without_a_head_has_hidden_states_alone() {
    let sandbox = Sandbox::new();
    write_model(&sandbox, "bert", "BertModel");
    let wanted = vectors("bert");
    let inputs = ["input_ids", "attention_mask", "token_type_ids"];
    let inputs: Vec<_> = inputs.map(|name| (name, &wanted[name])).into();
    write_tensors(&sandbox, "in.safetensors", &inputs);
    forward(&sandbox, "bert", &["--attention", "plain"]).succeeds();
    let found = safetensors::load(&sandbox.path("out.safetensors")).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["last_hidden_state"]);
    assert!(largest(&(&found["last_hidden_state"] - &wanted["last_hidden_state"])) <= 1e-5);
    forward(&sandbox, "bert", &["--overwrite", "--grads"]).refuses(&["--grads", "BertModel"]);
}

#[test]
fn bf16_is_near() {
    let sandbox = Sandbox::new();
    write_model(&sandbox, "gpt2", "GPT2LMHeadModel");
    let wanted = vectors("gpt2");
    write_inputs(&sandbox, &wanted, Tensor::shallow_clone);
    forward(&sandbox, "gpt2", &["--precision", "bf16"]).succeeds();
    let found = safetensors::load(&sandbox.path("out.safetensors")).unwrap();
    assert_eq!(found["logits"].kind(), Kind::BFloat16);
    let loss = |tensors: &Tensors| tensors["loss"].double_value(&[]);
    assert!((loss(&found) / loss(&wanted) - 1.0).abs() < 2e-2);
}

#[test]
fn an_output_is_replaced_only_when_asked() {
    let sandbox = Sandbox::new();
    write_model(&sandbox, "bert", "BertForMaskedLM");
    write_inputs(&sandbox, &vectors("bert"), Tensor::shallow_clone);
    sandbox.write("out.safetensors", "mine");
    forward(&sandbox, "bert", &[]).refuses(&["out.safetensors", "--overwrite"]);
    assert_eq!(std::fs::read(sandbox.path("out.safetensors")).unwrap(), b"mine");
    forward(&sandbox, "bert", &["--overwrite"]).succeeds();
    let args = ["--overwrite", "--output", "in.safetensors"];
    forward(&sandbox, "bert", &args).refuses(&["in.safetensors", "also the input"]);
    let weights = std::fs::read(sandbox.path("bert/model.safetensors")).unwrap();
    let args = ["--overwrite", "--output", "bert/model.safetensors"];
    forward(&sandbox, "bert", &args).refuses(&["bert/model.safetensors", "model's folder"]);
    assert_eq!(std::fs::read(sandbox.path("bert/model.safetensors")).unwrap(), weights);
    forward(&sandbox, "bert", &["--output", "no/out.safetensors"]).refuses(&["no/out", "folder"]);
    forward(&sandbox, "bert", &["--output", "bert"]).refuses(&["bert", "is a folder"]);
}

/// Gives a recorded GPT an input and expects a message with the file's name and `parts`.
fn check_input(inputs: &[(&str, Tensor)], parts: &[&str]) {
    let sandbox = Sandbox::new();
    write_model(&sandbox, "gpt2", "GPT2LMHeadModel");
    let named: Vec<_> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    write_tensors(&sandbox, "in.safetensors", &named);
    forward(&sandbox, "gpt2", &[]).refuses(&[&["in.safetensors"], parts].concat());
    assert!(!sandbox.path("out.safetensors").exists(), "nothing is left");
}

#[test]
fn inputs_that_do_not_fit() {
    let ids = || Tensor::from_slice(&[1i64, 2, 3, 4]).view([2, 2]);
    let with = |name, tensor| [("input_ids", ids()), (name, tensor)];
    check_input(&[("labels", ids())], &["input_ids", "is missing"]);
    check_input(&[("input_ids", ids() + 20)], &["input_ids", "21 to 24", "vocab_size = 23"]);
    check_input(&[("input_ids", ids() - 2)], &["input_ids", "-1 to 2"]);
    check_input(&[("input_ids", ids().to_kind(Kind::Float))], &["Float", "whole numbers"]);
    check_input(&[("input_ids", ids().view([4]))], &["input_ids", "[4]", "[batch, time]"]);
    check_input(&[("input_ids", ids().narrow(0, 0, 0))], &["input_ids", "[0, 2]"]);
    check_input(&with("inputs_ids", ids()), &["\"inputs_ids\"", "GPT2LMHeadModel reads input_ids"]);
    check_input(&with("token_type_ids", ids()), &["token_type_ids", "GPT2LMHeadModel"]);
    check_input(
        &with("attention_mask", ids().view([4]).ones_like()),
        &["attention_mask", "[2, 2]"],
    );
    check_input(&with("attention_mask", ids()), &["attention_mask", "1 for tokens and 0"]);
    check_input(&with("labels", ids().narrow(0, 0, 1)), &["labels", "[1, 2]", "[2, 2]"]);
    check_input(&with("labels", ids() + 20), &["labels", "21 to 24", "-100"]);
    check_input(&with("labels", ids() - 6), &["labels", "-5 to -2"]);
    check_input(&with("position_ids", ids() + 60), &["position_ids", "n_positions = 40"]);
    let long = Tensor::ones([1, 41], (Kind::Int64, ids().device()));
    check_input(&[("input_ids", long)], &["input_ids", "at most 40"]);
}
