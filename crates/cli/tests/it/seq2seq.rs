//! Fine-tuning a T5 to write texts after others.

use serde_json::{Map, Value, json};

use crate::finetune::{finetune, json as read_json, model as bert};
use crate::models::write_model;
use crate::support::Sandbox;

const PAIRS: [(&str, &str); 4] =
    [("good", "bad plot"), ("bad", "good"), ("fine film", "poor"), ("poor plot", "fine")];

/// A small T5 with a tokenizer of whole words.
pub(crate) fn model(sandbox: &Sandbox) {
    write_model(sandbox, "t5_1_0", "T5ForConditionalGeneration");
    let words = ["<pad>", "</s>", "<unk>", "say:", "good", "bad", "fine", "poor", "film", "plot"];
    let numbered = words.iter().enumerate();
    let vocabulary: Map<String, Value> =
        numbered.map(|(number, word)| ((*word).to_owned(), json!(number))).collect();
    let special = |number: usize| {
        json!({ "id": number, "content": words[number], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true })
    };
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let end = json!({ "SpecialToken": { "id": "</s>", "type_id": 0 } });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": (0..3).map(special).collect::<Vec<_>>(),
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": { "type": "TemplateProcessing", "single": [text, end],
            "pair": [text, end, text, end],
            "special_tokens": { "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] } } },
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    });
    sandbox.write("t5_1_0/tokenizer.json", tokenizer.to_string());
}

pub(crate) fn table(rows: usize) -> String {
    let row = |number: usize| {
        let (source, target) = PAIRS[number % 4];
        format!("{source},{target}\n")
    };
    format!("source,target\n{}", (0..rows).map(row).collect::<String>())
}

#[test]
fn texts_are_written_after_others_and_again_from_the_folder() {
    let sandbox = Sandbox::new();
    model(&sandbox);
    sandbox.write("train.csv", table(32));
    sandbox.write("held.csv", table(8));
    let data = ["--train", "train.csv", "--validation", "held.csv", "--epochs", "40"];
    let more = [
        "--prefix",
        "say: ",
        "--max-target-length",
        "6",
        "--best-by",
        "exact_match",
        "--set",
        "model.dropout=0",
    ];
    let args = [&["--model", "t5_1_0", "--out", "run"][..], &data, &more].concat();
    let outcome = finetune(&sandbox, "seq2seq", &args).succeeds();
    for told in ["targets of 2.2 tokens", "say: good </s>", "label: bad plot"] {
        assert!(outcome.stdout.contains(told), "{told}: {}", outcome.stdout);
    }
    let scores = &read_json(&sandbox, "run/summary.json")["validation"];
    assert!(scores["exact_match"].as_f64().unwrap() > 0.7, "{scores:#}");
    let config = read_json(&sandbox, "run/config.json");
    assert_eq!((&config["prefix"], &config["model_type"]), (&json!("say: "), &json!("t5")));
    let keys = read_json(&sandbox, "run/generation_config.json");
    assert_eq!((&keys["num_beams"], &keys["max_new_tokens"]), (&json!(1), &json!(6)));

    let file = ["--model", "run", "--data", "held.csv"];
    let found = sandbox.run(&[&["evaluate", "--json"], &file[..]].concat()).succeeds();
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    for name in ["rouge1", "rouge2", "rouge_l", "bleu", "chrf", "exact_match"] {
        assert_eq!(found["scores"][name]["value"], scores[name], "{name}");
    }
    let exact = scores["exact_match"].as_f64().unwrap();
    for beams in ["1", "3"] {
        let args = [&["predict", "--beams", beams], &file[..]].concat();
        let lines = sandbox.run(&args).succeeds().stdout;
        let lines: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let right = lines.iter().zip(PAIRS.iter().cycle());
        let right = right.filter(|(line, pair)| line["generated_text"] == pair.1).count();
        assert!(right as f64 / lines.len() as f64 >= exact, "{beams} beams: {lines:#?}");
    }
}

#[test]
fn pairs_teach_the_same_side_by_side_and_padded() {
    let sandbox = Sandbox::new();
    model(&sandbox);
    sandbox.write("train.csv", table(24));
    let losses = |layout: &str| -> Vec<f64> {
        let set = format!("data.packing={layout}");
        let args = ["--model", "t5_1_0", "--train", "train.csv", "--epochs", "2", "--out", layout];
        let more = ["--set", &set, "--set", "model.dropout=0"];
        finetune(&sandbox, "seq2seq", &[&args[..], &more].concat()).succeeds();
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

#[test]
fn what_no_model_can_write_is_told_with_its_line() {
    let sandbox = Sandbox::new();
    model(&sandbox);
    bert(&sandbox, "bert", "BertForMaskedLM");
    sandbox.write("good.csv", table(4));
    sandbox.write("empty.csv", "source,target\ngood,bad\nfine, \n");
    sandbox.write("columns.csv", "source,goal\ngood,bad\n");
    for (model, train, more, told) in [
        ("t5_1_0", "empty.csv", &[][..], "empty.csv: line 3 has an empty text in \"target\""),
        ("t5_1_0", "columns.csv", &[], "lacks the column \"target\""),
        ("t5_1_0", "good.csv", &["--best-by", "meteor"], "seq2seq.best_by"),
        ("bert", "good.csv", &[], "has no such head in bert4rs; it has T5ForConditional"),
    ] {
        let data = ["--train", train, "--model", model, "--out", "run"];
        finetune(&sandbox, "seq2seq", &[&data[..], more].concat()).refuses(&[told]);
        assert!(!sandbox.path("run/config.toml").exists(), "{told}");
    }
}
