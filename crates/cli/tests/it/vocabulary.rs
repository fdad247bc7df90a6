//! A model has as many tokens as its tokenizer, unless more are asked for.

use serde_json::Value;

use crate::support::{Sandbox, TINY};

/// The size of the vocabulary that a run with `extra` leaves.
fn trained(sandbox: &Sandbox, extra: &[&str]) -> u64 {
    let args = [&["train", "--out", "run", "--overwrite"], &TINY[..], extra].concat();
    sandbox.run(&args).succeeds();
    let config = std::fs::read_to_string(sandbox.path("run/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    config["vocab_size"].as_u64().unwrap()
}

#[test]
fn a_tokenizer_that_is_loaded_decides_it() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let kind = ["tokenizer", "train", "--kind", "wordpiece", "--corpus", "corpus.txt"];
    sandbox.run(&[&kind[..], &["--vocab-size", "350", "--out", "tok"]].concat()).succeeds();
    let with = ["--corpus", "corpus.txt", "--tokenizer", "tok"];
    assert_eq!(trained(&sandbox, &with), 350);
    assert_eq!(trained(&sandbox, &[&with[..], &["--preset", "baseline"]].concat()), 350);
    assert_eq!(trained(&sandbox, &[&with[..], &["--vocab-size", "360"]].concat()), 360);

    let prepare = [&["data", "prepare"], &with[..], &["--out", "tokens"]].concat();
    sandbox.run(&prepare).succeeds();
    assert_eq!(trained(&sandbox, &["--corpus", "tokens"]), 350);
    let again = sandbox.run(&prepare);
    assert!(!again.stdout.contains("tokenizing"), "refused before anything is done");
    again.refuses(&["tokens", "exists", "--out"]);
    let small = sandbox.run(&[&["data", "prepare", "--vocab-size", "300"], &with[..]].concat());
    small.refuses(&["model.vocab_size", "350 tokens"]);
}

#[test]
fn all_tokens_may_be_hidden() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for more in [&[][..], &["--preset", "recommended"], &["--set", "data.mask_unit=\"words\""]] {
        let args = ["--corpus", "corpus.txt", "--vocab-size", "400", "--set", "data.mask_rate=1"];
        trained(&sandbox, &[&args[..], more].concat());
        let summary = std::fs::read_to_string(sandbox.path("run/summary.json")).unwrap();
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let loss = summary["final_loss"].as_f64().unwrap();
        assert!((4.0..8.0).contains(&loss), "{loss}");
    }
}
