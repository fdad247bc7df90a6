//! `tokenizer train` and `tokenizer check`, as a person uses them.

use crate::support::{Outcome, Sandbox};

const KINDS: [(&str, &str); 3] = [("wordpiece", "400"), ("bpe", "400"), ("unigram", "500")];

/// Trains a tokenizer of a kind and size on `corpus.txt` into `out`.
fn train(sandbox: &Sandbox, kind: &str, out: &str, size: &str) -> Outcome {
    let what = ["tokenizer", "train", "--corpus", "corpus.txt", "--kind", kind];
    sandbox.run(&[&what[..], &["--vocab-size", size, "--out", out]].concat())
}

#[test]
fn a_tokenizer_is_trained_checked_and_trained_with() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for (kind, size) in KINDS {
        let trained = train(&sandbox, kind, kind, size).succeeds();
        assert!(trained.stdout.contains(&format!("tokens     {size}")), "{}", trained.stdout);
        assert_eq!(sandbox.list(kind), ["tokenizer.json", "tokenizer_config.json"]);
        let ids = format!("{kind}.json");
        sandbox.run(&["tokenizer", "check", kind, "--ids", &ids]).succeeds();
        for against in [kind, &ids] {
            let checked = sandbox.run(&["tokenizer", "check", kind, "--against", against]);
            assert!(checked.succeeds().stdout.contains("texts have the same ids"));
        }
    }
    let run = ["--tokenizer", "wordpiece", "--out", "run"];
    sandbox.train(&run).succeeds();
}

#[test]
fn tokenizers_that_differ_are_told_apart() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let train = |kind, out, size| train(&sandbox, kind, out, size);
    train("wordpiece", "a", "400").succeeds();
    train("wordpiece", "b", "350").succeeds();
    train("wordpiece", "a", "350").refuses(&["a: exists", "--out"]);
    train("wordpiece", "c", "10").refuses(&["vocabulary size", "is 10"]);
    let differ = sandbox.run(&["tokenizer", "check", "a", "--against", "b"]);
    assert_eq!(differ.code, Some(1), "{}{}", differ.stdout, differ.stderr);
    assert!(differ.stdout.contains(": token ") && differ.stdout.contains(" here, "));
    sandbox.write("bad.json", "[{\"text\": 3}]");
    let bad = sandbox.run(&["tokenizer", "check", "a", "--against", "bad.json"]);
    bad.refuses(&["bad.json", "expected [{"]);
}
