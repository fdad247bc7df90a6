//! Fine-tuning by the program: what it learns, leaves, says again, and refuses.

use serde_json::Value;

use crate::models::write_model;
use crate::support::Sandbox;

/// Words that small models have tokens for, after the special ones.
const WORDS: [&str; 12] =
    ["good", "bad", "fine", "poor", "a", "the", "film", "plot", "is", "was", "very", "not"];

/// A vocabulary of `size` tokens.
fn vocabulary(size: usize) -> String {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let words = WORDS.map(str::to_owned);
    let rest = (0..size).map(|number| format!("[unused{number}]"));
    special.into_iter().chain(words).chain(rest).take(size).collect::<Vec<_>>().join("\n")
}

/// A model folder with a tokenizer.
pub(crate) fn model(sandbox: &Sandbox, name: &str, architecture: &str) {
    write_model(sandbox, name, architecture);
    let config = std::fs::read_to_string(sandbox.path(&format!("{name}/config.json"))).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let size = config["vocab_size"].as_u64().unwrap() as usize;
    sandbox.write(&format!("{name}/vocab.txt"), vocabulary(size));
}

/// Texts with a word that tells their label.
pub(crate) fn table(rows: usize) -> String {
    let row = |number: usize| {
        let (word, label) =
            [("good", "pos"), ("bad", "neg"), ("fine", "pos"), ("poor", "neg")][number % 4];
        let (article, noun) = (WORDS[4 + number / 4 % 2], WORDS[6 + number / 8 % 2]);
        let more = ["", " very"][number / 16 % 2];
        format!("{article} {noun} is{more} {word},{label}\n")
    };
    format!("text,label\n{}", (0..rows).map(row).collect::<String>())
}

pub(crate) const QUICK: [&str; 8] =
    ["--batch-size", "8", "--lr", "0.02", "--set", "compute.threads=1", "--device", "cpu"];

pub(crate) fn finetune(sandbox: &Sandbox, task: &str, args: &[&str]) -> crate::support::Outcome {
    let mut all = vec!["finetune", task];
    all.extend(QUICK);
    all.extend(args);
    sandbox.run(&all)
}

pub(crate) fn json(sandbox: &Sandbox, file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(sandbox.path(file)).unwrap()).unwrap()
}

#[test]
fn models_of_every_kind_learn_classes_and_say_them_again() {
    for (name, architecture, class) in [
        ("bert", "BertForMaskedLM", "BertForSequenceClassification"),
        ("relative_distilbert", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"),
        ("relative_modernbert", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
        ("relative_gpt2", "GPT2LMHeadModel", "GPT2ForSequenceClassification"),
        ("t5_1_0", "T5ForConditionalGeneration", "T5EncoderForSequenceClassification"),
    ] {
        let sandbox = Sandbox::new();
        match name {
            "t5_1_0" => crate::seq2seq::model(&sandbox),
            _ => model(&sandbox, name, architecture),
        }
        sandbox.write("train.csv", table(64));
        sandbox.write("held.csv", table(32));
        let data = ["--train", "train.csv", "--validation", "held.csv", "--epochs", "8"];
        let args = [&["--model", name, "--out", "run"][..], &data].concat();
        let outcome = finetune(&sandbox, "classify", &args);
        assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.stderr);
        for told in ["new head", "label      0 = neg: 32 (50.0%)", "example    line 2", "good"] {
            assert!(outcome.stdout.contains(told), "{name}: {told}: {}", outcome.stdout);
        }
        let summary = json(&sandbox, "run/summary.json");
        let accuracy = summary["validation"]["accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.9, "{name}: {summary:#}");
        assert_eq!(summary["tokens"], summary["positions"], "packed rows have no padding");
        let config = json(&sandbox, "run/config.json");
        assert_eq!(config["architectures"][0], class);
        assert_eq!(config["id2label"], serde_json::json!({ "0": "neg", "1": "pos" }));
        assert_eq!(config["problem_type"], "single_label_classification");

        let found = sandbox.run(&["evaluate", "--model", "run", "--data", "held.csv", "--json"]);
        assert_eq!(found.code, Some(0), "{}", found.stderr);
        let found: Value = serde_json::from_str(&found.stdout).unwrap();
        assert_eq!(found["scores"]["accuracy"]["value"], summary["validation"]["accuracy"]);
        let found = sandbox.run(&["predict", "--model", "run", "--data", "held.csv"]);
        let lines: Vec<Value> =
            found.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let right = lines.iter().zip([("pos"), ("neg")].iter().cycle());
        let right = right.filter(|(line, label)| line["label"] == **label).count();
        assert_eq!(right as f64 / lines.len() as f64, accuracy, "{name}");
    }
}

#[test]
fn packed_and_padded_rows_teach_the_same() {
    let sandbox = Sandbox::new();
    model(&sandbox, "relative_roberta", "RobertaForMaskedLM");
    sandbox.write("train.csv", table(24));
    let losses = |layout: &str| -> Vec<f64> {
        let set = format!("data.packing={layout}");
        let args = ["--model", "relative_roberta", "--train", "train.csv", "--epochs", "2"];
        let more = ["--set", &set, "--set", "model.dropout=0", "--out", layout];
        let outcome = finetune(&sandbox, "classify", &[&args[..], &more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let text = std::fs::read_to_string(sandbox.path(layout).join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
        text.lines().map(|line| loss(line).unwrap()).collect()
    };
    let (packed, padded) = (losses("packed"), losses("padded"));
    assert_eq!(packed.len(), 6);
    for (packed, padded) in packed.iter().zip(&padded) {
        assert!((packed - padded).abs() < 1e-4, "{packed} {padded}");
    }
}

/// 24 sentences whose second word tells its tag.
pub(crate) fn words() -> String {
    let mut text = String::new();
    for number in 0..24 {
        let (word, tag) = [("film", "B-X"), ("plot", "B-Y"), ("very", "O")][number % 3];
        text += &format!("the DT O\n{word} NN {tag}\nwas VB O\n\n");
    }
    text
}

#[test]
fn words_are_tagged_and_several_seeds_told() {
    let sandbox = Sandbox::new();
    model(&sandbox, "relative_electra", "ElectraForMaskedLM");
    sandbox.write("words.txt", words());
    let data = ["--train", "words.txt", "--validation", "words.txt", "--epochs", "12"];
    let args = [&["--model", "relative_electra", "--out", "runs", "--seeds", "2"][..], &data];
    let outcome = finetune(&sandbox, "tag", &args.concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("over 2 seeds"), "{}", outcome.stdout);
    let spread = json(&sandbox, "runs/seeds.json");
    assert!(spread["validation"]["f1"]["mean"].as_f64().unwrap() > 0.9, "{spread:#}");
    let found = sandbox.run(&["evaluate", "--model", "runs/seed-1", "--data", "words.txt"]);
    assert!(found.stdout.contains("entity: precision"), "{}{}", found.stdout, found.stderr);
    let found = sandbox.run(&["predict", "--model", "runs/seed-2", "--data", "words.txt"]);
    let first: Value = serde_json::from_str(found.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first["tokens"], serde_json::json!(["the", "film", "was"]));
    assert_eq!(first["tags"].as_array().unwrap().len(), 3);
}

#[test]
fn bad_input_is_told_with_its_line_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    sandbox.write("good.csv", table(8));
    sandbox.write("columns.csv", "text,labels\na,b\n");
    sandbox.write("empty.csv", "text,label\ngood,pos\n  ,neg\n");
    sandbox.write("other.csv", "text,label\ngood,pos\nbad,worse\n");
    sandbox.write("one.csv", "text,label\ngood,pos\nbad,pos\n");
    sandbox.write("none.csv", "text,label\n");
    for (train, validation, told) in [
        ("columns.csv", "good.csv", "columns.csv: lacks the column \"label\"; it has text, labels"),
        ("empty.csv", "good.csv", "empty.csv: line 3 has an empty text in \"text\""),
        (
            "good.csv",
            "other.csv",
            "other.csv: line 3 has the label \"worse\", which is none of neg",
        ),
        ("one.csv", "one.csv", "one.csv: has one label, pos: there is nothing to learn"),
        ("none.csv", "good.csv", "none.csv: has no examples"),
        ("absent.csv", "good.csv", "absent.csv: does not exist"),
    ] {
        let data = ["--train", train, "--validation", validation];
        let args = [&["--model", "bert", "--out", "run"][..], &data].concat();
        let outcome = finetune(&sandbox, "classify", &args);
        assert_eq!(outcome.code, Some(2), "{told}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains(told), "{told}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        assert!(!sandbox.path("run/config.toml").exists(), "{told}");
    }
    let outcome = sandbox.run(&["predict", "--model", "bert", "--data", "good.csv"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("no head for a task"), "{}", outcome.stderr);
    let outcome = finetune(&sandbox, "classify", &["--model", "bert"]);
    assert!(outcome.stderr.contains("task.train: is missing; give --train FILE"));
}

#[test]
fn a_gpt_learns_completions_and_not_their_prompts() {
    let sandbox = Sandbox::new();
    model(&sandbox, "relative_gpt2", "GPT2LMHeadModel");
    let row = |number: usize| {
        let (prompt, completion) = [("the film", "was good"), ("the plot", "was bad")][number % 2];
        format!("{{\"prompt\":\"{prompt}\",\"completion\":\"{completion}\"}}\n")
    };
    sandbox.write("pairs.jsonl", (0..16).map(row).collect::<String>());
    let data = ["--train", "pairs.jsonl", "--validation", "pairs.jsonl", "--epochs", "20"];
    let args = [&["--model", "relative_gpt2", "--out", "run"][..], &data].concat();
    let outcome = finetune(&sandbox, "causal", &args);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let summary = json(&sandbox, "run/summary.json");
    // Guessing costs 23; of a prompt, its last word would still be open.
    let perplexity = summary["validation"]["perplexity"].as_f64().unwrap();
    assert!(perplexity < 1.5, "{summary:#}");
    let found = sandbox.run(&["evaluate", "--model", "run", "--data", "pairs.jsonl", "--json"]);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    let again = found["scores"]["perplexity"]["value"].as_f64().unwrap();
    assert!((again - perplexity).abs() < 1e-5 * perplexity, "{again} {perplexity}");
}
