//! Fine-tuning to answer questions: long texts in windows, no answers, and what is refused.

use serde_json::{Value, json};

use crate::finetune::{finetune, json as read_json, model};
use crate::support::Sandbox;

/// Questions for the one word of a text that tells a quality; every fourth text has none, and every
/// second one is longer than a window.
fn squad(count: usize) -> Value {
    let entry = |number: usize| {
        let quality = ["good", "bad", "fine", ""][number % 4];
        let before = ["the film", "a plot was the film was the plot was the film"][number % 2];
        let context = format!("{before} is very {quality} a plot");
        let start = context.find(quality).unwrap();
        let answers = match quality {
            "" => json!([]),
            text => json!([{ "text": text, "answer_start": start }]),
        };
        let entry = json!({ "id": format!("q{number}"), "question": "was the film",
            "answers": answers, "is_impossible": quality.is_empty() });
        json!({ "context": context, "qas": [entry] })
    };
    let paragraphs: Vec<Value> = (0..count).map(entry).collect();
    json!({ "version": "2.0", "data": [{ "title": "t", "paragraphs": paragraphs }] })
}

#[test]
fn questions_are_answered_by_windows_and_some_not_at_all() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    sandbox.write("train.json", squad(32).to_string());
    let data = ["--train", "train.json", "--validation", "train.json", "--epochs", "20"];
    let windows = ["--max-length", "14", "--stride", "3", "--longest-answer", "2"];
    let args = [&["--model", "bert", "--out", "run"][..], &data, &windows].concat();
    let outcome = finetune(&sandbox, "answer", &args).succeeds();
    for told in ["new head", "windows hold their answer, ", "label: \"good\", tokens"] {
        assert!(outcome.stdout.contains(told), "{told}: {}", outcome.stdout);
    }
    let summary = read_json(&sandbox, "run/summary.json");
    let f1 = summary["validation"]["f1"].as_f64().unwrap();
    assert!(f1 > 0.9, "{summary:#}");
    assert!(summary["examples"].as_u64().unwrap() > 32, "long texts make several windows");
    let config = read_json(&sandbox, "run/config.json");
    assert_eq!(config["architectures"][0], "BertForQuestionAnswering");
    assert_eq!(config["no_answer_threshold"], 0.0);

    let file = ["--model", "run", "--data", "train.json"];
    let found = sandbox.run(&[&["evaluate", "--json"], &file[..], &windows].concat()).succeeds();
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(found["examples"], 32);
    assert_eq!(found["scores"]["f1"]["value"], f1);
    for name in ["has_answer_f1", "no_answer_accuracy", "best_f1", "best_f1_threshold"] {
        assert!(found["scores"][name]["value"].is_number(), "{name}: {found:#}");
    }
    let args = [&["predict", "--n-best", "2"], &file[..], &windows].concat();
    let lines = sandbox.run(&args).succeeds().stdout;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let right = |(number, line): (usize, &Value)| {
        assert_eq!(line["id"], format!("q{number}"));
        assert!(line["answers"].as_array().unwrap().len() <= 2, "{line}");
        line["answer"] == ["good", "bad", "fine", ""][number % 4]
    };
    assert_eq!(lines.len(), 32);
    assert!(lines.iter().enumerate().filter(|&line| right(line)).count() > 28, "{lines:#?}");
    let args = [&["predict", "--no-answer-threshold", "-1e9"], &file[..], &windows].concat();
    let silent = sandbox.run(&args).succeeds().stdout;
    assert_eq!(silent.matches("\"answer\":\"\"").count(), 32, "{silent}");
}

#[test]
fn what_no_one_can_answer_is_told_with_its_place() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    let changed = |key: &str, value: Value| {
        let mut whole = squad(4);
        whole["data"][0]["paragraphs"][1]["qas"][0][key] = value;
        whole.to_string()
    };
    sandbox.write("good.json", squad(4).to_string());
    let answers = json!([{ "text": "bad", "answer_start": 1 }]);
    sandbox.write("place.json", changed("answers", answers));
    sandbox.write("long.json", changed("question", json!("the film ".repeat(30))));
    sandbox.write(
        "none.json",
        json!({ "data": [{ "paragraphs": [{ "context": "good",
        "qas": [{ "question": "was", "answers": [], "is_impossible": true }] }] }] })
        .to_string(),
    );
    let at = "data[0].paragraphs[1].qas[0]";
    let place = format!("place.json: {at} has the answer \"bad\" from character 1 of its text on");
    let long = format!("long.json: {at} has a question that leaves no room");
    for (train, more, told) in [
        ("place.json", &[][..], &*place),
        ("long.json", &["--stride", "3"], &*long),
        ("none.json", &["--stride", "3"], "none.json: has no question with an answer"),
        ("good.json", &["--longest-answer", "0"], "answer.longest: 0 is below 1"),
        ("good.json", &["--stride", "99"], "answer.stride: windows of 40 tokens can't share 99"),
        ("good.csv", &[], "good.csv: does not exist"),
    ] {
        let data = ["--train", train, "--model", "bert", "--out", "run"];
        finetune(&sandbox, "answer", &[&data[..], more].concat()).refuses(&[told]);
        assert!(!sandbox.path("run/config.toml").exists(), "{told}");
    }
}
