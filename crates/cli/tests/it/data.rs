//! `data prepare` and `data inspect`, as a person uses them.

use std::io::Write;
use std::process::Stdio;

use crate::support::{Outcome, Sandbox, train_args};

/// The arguments of a tiny run for another command.
fn args<'a>(command: &[&'a str], extra: &[&'a str]) -> Vec<&'a str> {
    let out = ["--out", "run"];
    let run = train_args(extra).split_off(1);
    let of_run = run.chunks(2).filter(|pair| *pair != out || extra.contains(&"--out"));
    command.iter().copied().chain(of_run.flatten().copied()).collect()
}

const T5: [&str; 2] = ["--model", "t5"];

#[test]
fn a_prepared_corpus_is_what_training_starts_from() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let prepare = args(&["data", "prepare"], &["--out", "prepared"]);
    let prepared = sandbox.run(&prepare).succeeds();
    for part in ["tokenizing ...", "tokens in", "documents", "folder     prepared"] {
        assert!(prepared.stdout.contains(part), "no {part:?} in: {}", prepared.stdout);
    }
    sandbox.run(&prepare).refuses(&["prepared", "exists"]);
    // The same flags find the cached tokens; a folder needs no cache at all.
    let trained = sandbox.train(&["--out", "run"]).succeeds();
    assert!(!trained.stdout.contains("tokenizing"), "{}", trained.stdout);
    std::fs::remove_dir_all(sandbox.path("cache")).unwrap();
    std::fs::remove_file(sandbox.path("corpus.txt")).unwrap();
    let again = sandbox.train(&["--corpus", "prepared", "--out", "again"]).succeeds();
    assert!(!again.stdout.contains("tokenizing"), "{}", again.stdout);
    let losses = |run: &str| {
        let text = std::fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
        let loss =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].clone();
        text.lines().map(loss).collect::<Vec<_>>()
    };
    assert_eq!(losses("run"), losses("again"));
}

#[test]
fn inspect_tells_counts_lengths_tokens_and_text() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let shown = sandbox.run(&args(&["data", "inspect", "--samples", "2"], &[])).succeeds();
    for part in [
        "training: ",
        " documents, ",
        " bytes a token, 0.",
        "% unknown, ",
        " ids\n",
        " tokens ",
        "most frequent: \"",
        "held out: ",
        "document 0: ",
    ] {
        assert!(shown.stdout.contains(part), "no {part:?} in: {}", shown.stdout);
    }
    assert_eq!(shown.stdout.matches("\ndocument ").count(), 2);
}

#[test]
fn inspect_shows_a_batch_of_each_family() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let inspect = ["data", "inspect", "--batch", "3"];
    let bert = sandbox.run(&args(&inspect, &["--set", "data.packing=packed"])).succeeds().stdout;
    for part in ["batch 3: 2 rows of 32, ", " to predict", "row 0    [CLS] ", "[MASK]‹", " [SEP]"]
    {
        assert!(bert.contains(part), "no {part:?} in: {bert}");
    }
    assert!(!bert.contains('\x1b'), "colours where nobody watches: {bert}");
    let gpt = sandbox.run(&args(&inspect, &["--model", "gpt"])).succeeds().stdout;
    assert!(
        gpt.contains("row 0    <|endoftext|> ") && gpt.contains("% padding, 64 to predict"),
        "{gpt}"
    );
    let t5 = sandbox.run(&args(&inspect, &T5)).succeeds().stdout;
    assert!(t5.contains("<extra_id_0>") && t5.contains("target <extra_id_0> "), "{t5}");
    assert!(t5.contains("</s>"), "{t5}");
}

#[test]
fn standard_input_is_a_corpus() {
    let sandbox = Sandbox::new();
    let text = std::fs::read(sandbox.corpus()).unwrap();
    let run = |text: &[u8]| {
        let mut command = sandbox.command(&args(&["data", "prepare"], &["--corpus", "-"]));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text).unwrap();
        Outcome::new(child.wait_with_output().unwrap())
    };
    assert!(run(&text).succeeds().stdout.contains("tokenizing"));
    assert!(!run(&text).succeeds().stdout.contains("tokenizing"), "the same text was prepared");
    run(b"").refuses(&["standard input", "is empty"]);
    assert_eq!(sandbox.list("cache/bert4rs/standard-input").len(), 1);
}

#[test]
fn where_documents_begin_is_a_flag() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let documents = |extra: &[&str]| {
        let stdout = sandbox.run(&args(&["data", "prepare"], extra)).succeeds().stdout;
        let line = stdout.lines().find(|line| line.starts_with("prepared")).unwrap().to_owned();
        line.split_whitespace().nth(4).unwrap().parse::<u64>().unwrap()
    };
    assert!(documents(&["--document", "line"]) > documents(&[]));
    assert_eq!(documents(&["--document", "file"]), 2, "one document, its end held out");
    let refused = sandbox.run(&args(&["data", "prepare"], &["--document", "word"]));
    refused.refuses(&["--document", "data.document", "blank-line, line or file"]);
}
