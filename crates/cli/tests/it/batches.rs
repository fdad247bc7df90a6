//! `bert4rs batches`.

use bert4rs_tensor_core::{Kind, safetensors};

use crate::support::Sandbox;

#[test]
fn batches_are_those_that_a_run_is_trained_on() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let shape = ["--batch-size", "2", "--seq-len", "32", "--vocab-size", "400"];
    let model = ["--hidden-size", "32", "--num-layers", "1", "--num-heads", "2"];
    let args =
        [&["batches", "--count", "2", "--corpus", "corpus.txt"], &shape[..], &model].concat();
    let write = |more: &[&str]| sandbox.run(&[&args, more].concat());
    write(&["--out", "a.safetensors"]).succeeds();
    write(&["--out", "a.safetensors"]).refuses(&["a.safetensors", "--overwrite"]);
    write(&[]).refuses(&["--out"]);

    let tensors = safetensors::load(&sandbox.path("a.safetensors")).unwrap();
    for index in ["0", "1"] {
        let tensor = |name: &str| &tensors[&format!("{index}.{name}")];
        assert_eq!(tensor("input_ids").size(), [2, 32], "packed, as recommended");
        let real = tensor("real_tokens").int64_value(&[]);
        assert!((1..=64).contains(&real), "{real}");
        let labels = tensor("masked_labels");
        assert_eq!(labels.size(), tensor("masked_positions").size());
        assert!(labels.numel() > 0 && labels.kind() == Kind::Int64);
    }
    assert!(tensors["0.input_ids"] != tensors["1.input_ids"]);

    // The rows' layout is another, the tokens to predict are not.
    let padded = ["--out", "b.safetensors", "--set", "data.packing=padded"];
    write(&padded).succeeds();
    let other = safetensors::load(&sandbox.path("b.safetensors")).unwrap();
    assert_eq!(tensors["1.masked_labels"], other["1.masked_labels"]);
}
