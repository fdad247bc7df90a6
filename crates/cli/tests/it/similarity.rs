//! Fine-tuning to compare texts by the program: all three forms of tables, and the folder that
//! comes of them.

use serde_json::Value;

use crate::finetune::{finetune, json, model};
use crate::support::Sandbox;

/// Pairs that are alike where both have a word of one kind.
fn scored(rows: usize) -> String {
    let row = |number: usize| {
        let first = ["good", "bad", "fine", "poor"][number % 4];
        let second = ["fine", "poor", "good", "bad", "bad", "good", "poor", "fine"][number % 8];
        let score = f64::from(u8::from(number % 8 < 4)) * 5.0;
        let noun = ["film", "plot"][number / 8 % 2];
        format!("the {noun} is {first},the {noun} was {second},{score}\n")
    };
    format!("one,other,label\n{}", (0..rows).map(row).collect::<String>())
}

#[test]
fn scored_pairs_make_a_folder_that_embeds_them_alike() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    sandbox.write("pairs.csv", scored(32));
    let columns = ["--text-column", "one", "--text-pair-column", "other"];
    let data = ["--model", "bert", "--train", "pairs.csv", "--validation", "pairs.csv"];
    let more = ["--score-scale", "5", "--pooling", "mean+cls", "--out", "run"];
    let pace = ["--lr", "0.01", "--epochs", "12"];
    let outcome = finetune(&sandbox, "similarity", &[&columns[..], &data, &more, &pace].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for told in ["32 pairs with scores from 0 to 1", "not used", "with: [CLS] the film"] {
        assert!(outcome.stdout.contains(told), "{told}: {}", outcome.stdout);
    }
    let summary = json(&sandbox, "run/summary.json");
    assert!(summary["validation"]["spearman"].as_f64().unwrap() > 0.8, "{summary:#}");
    // Its folders within do not stay behind.
    for _ in 0..2 {
        let again = [&["--overwrite"][..], &columns, &data, &more, &pace].concat();
        assert_eq!(finetune(&sandbox, "similarity", &again).code, Some(0));
    }
    assert_eq!(json(&sandbox, "run/config.json")["architectures"][0], "BertModel");
    assert_eq!(json(&sandbox, "run/modules.json")[1]["path"], "1_Pooling");

    let use_run = |command: &str, more: &[&str]| {
        let args = [command, "--model", "run", "--data", "pairs.csv"];
        let found = sandbox.run(&[&args[..], &columns, more].concat());
        assert_eq!(found.code, Some(0), "{}", found.stderr);
        found.stdout
    };
    let found: Value = serde_json::from_str(&use_run("evaluate", &["--json"])).unwrap();
    assert_eq!(found["scores"]["spearman"]["value"], summary["validation"]["spearman"]);
    let said = use_run("predict", &[]);
    let said: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let texts = [said["text"].as_str().unwrap(), said["text_pair"].as_str().unwrap()];
    let args = ["embed", "--model", "run", "--text", texts[0], "--text", texts[1]];
    let found = sandbox.run(&args);
    let vectors: Vec<Vec<f64>> = found.stdout.lines().map(vector).collect();
    let dot = |a: usize, b: usize| -> f64 {
        vectors[a].iter().zip(&vectors[b]).map(|(x, y)| x * y).sum()
    };
    let cosine = dot(0, 1) / (dot(0, 0) * dot(1, 1)).sqrt();
    assert!((cosine - said["similarity"].as_f64().unwrap()).abs() < 1e-5, "{said} {cosine}");
}

fn vector(line: &str) -> Vec<f64> {
    let object: Value = serde_json::from_str(line).unwrap();
    object["embedding"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn pairs_in_parts_learn_as_the_whole_batch_does() {
    let sandbox = Sandbox::new();
    model(&sandbox, "relative_roberta", "RobertaForMaskedLM");
    let words = ["good", "bad", "fine", "poor", "film", "plot"];
    let row = |at: usize| format!("the {},very {}\n", words[at % 6], words[at % 6]);
    sandbox.write("pairs.csv", format!("text,text_pair\n{}", (0..24).map(row).collect::<String>()));
    let losses = |out: &str, more: &[&str]| -> Vec<f64> {
        let args = ["--model", "relative_roberta", "--train", "pairs.csv", "--epochs", "3"];
        let held = ["--validation", "pairs.csv", "--set", "model.dropout=0", "--out", out];
        let outcome = finetune(&sandbox, "similarity", &[&args[..], &held, more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let text = std::fs::read_to_string(sandbox.path(out).join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
        text.lines().filter_map(loss).collect()
    };
    let whole = losses("whole", &[]);
    let padded = losses("padded", &["--encode-at-once", "5", "--set", "data.packing=padded"]);
    let parts = losses("parts", &["--encode-at-once", "3"]);
    assert!(whole.len() >= 9, "{whole:?}");
    for (whole, (parts, padded)) in whole.iter().zip(parts.iter().zip(&padded)) {
        assert!((whole - parts).abs() < 1e-4, "{whole} {parts}");
        assert!((whole - padded).abs() < 1e-4, "{whole} {padded}");
    }
    let scores = &json(&sandbox, "parts/summary.json")["validation"];
    assert!(scores["mrr"].as_f64().unwrap() > 0.8, "{scores}");
}

#[test]
fn triplets_are_learned_and_what_is_wrong_is_told() {
    let sandbox = Sandbox::new();
    model(&sandbox, "relative_distilbert", "DistilBertForMaskedLM");
    let row = |at: usize| {
        let (near, far) = [("good", "bad"), ("bad", "good")][at % 2];
        format!("{{\"text\":\"a {near} film\",\"text_pair\":\"{near}\",\"negative\":\"{far}\"}}\n")
    };
    sandbox.write("triplets.jsonl", (0..16).map(row).collect::<String>());
    sandbox.write("scored.csv", "text,text_pair,label\ngood,fine,4\n");
    sandbox.write("pairs.csv", "text,text_pair\ngood,fine\n");
    let model = ["--model", "relative_distilbert", "--out", "run"];
    let data = ["--train", "triplets.jsonl", "--validation", "triplets.jsonl", "--epochs", "6"];
    let outcome = finetune(&sandbox, "similarity", &[&model[..], &data].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let summary = json(&sandbox, "run/summary.json");
    assert!(summary["validation"]["accuracy"].as_f64().unwrap() > 0.9, "{summary:#}");
    let args = ["predict", "--model", "run", "--data", "triplets.jsonl"];
    let found = sandbox.run(&args);
    let said: Value = serde_json::from_str(found.stdout.lines().next().unwrap()).unwrap();
    assert!(said["similarity"].as_f64() > said["negative_similarity"].as_f64(), "{said}");

    for (train, more, told) in [
        ("scored.csv", &[][..], "line 2 has the score 4, and cosines lie between -1 and 1"),
        ("scored.csv", &["--loss", "ranking"], "line 2 has the label 4; to rank, 1 is"),
        ("pairs.csv", &["--loss", "cosine"], "lacks what similarity.loss needs: a score"),
        ("pairs.csv", &["--loss", "triplet"], "a third text, in the column that --negative"),
        ("pairs.csv", &["--pooling", "median"], "similarity.pooling"),
    ] {
        let args = ["--model", "relative_distilbert", "--out", "bad", "--train", train];
        let outcome = finetune(&sandbox, "similarity", &[&args[..], more].concat());
        assert_eq!(outcome.code, Some(2), "{told}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains(told), "{told}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    }
}

#[test]
fn texts_are_ranked_by_query() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    let words = ["good", "bad", "fine", "poor"];
    let mut rows = String::new();
    for (query, text) in (0..16).map(|at| (at / 4, at % 4)) {
        let relevance = [2, 0, 1, 0][text];
        rows += &format!("the {},very {},{relevance}\n", words[query], words[text]);
    }
    sandbox.write("train.csv", format!("query,text,label\n{rows}{rows}"));
    sandbox.write("held.csv", format!("query,text,label\n{rows}film,poor,0\n"));
    let data = ["--train", "train.csv", "--validation", "held.csv", "--score-scale", "2"];
    let more = ["--model", "bert", "--out", "run", "--epochs", "20"];
    let outcome = finetune(&sandbox, "rank", &[&data[..], &more].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let told = "4 queries with 8.0 texts on average, of which 50.0% are relevant";
    assert!(outcome.stdout.contains(told), "{}", outcome.stdout);
    let summary = json(&sandbox, "run/summary.json");
    assert!(summary["validation"]["ndcg_at_10"].as_f64().unwrap() > 0.8, "{summary:#}");
    let config = json(&sandbox, "run/config.json");
    assert_eq!(config["architectures"][0], "BertForSequenceClassification");
    assert_eq!(config["id2label"], serde_json::json!({ "0": "LABEL_0" }));

    let args = ["evaluate", "--model", "run", "--data", "held.csv", "--json"];
    let found = sandbox.run(&args);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    let of = |name: &str| &found["scores"][name];
    assert_eq!(of("mrr_at_10")["value"], summary["validation"]["mrr_at_10"]);
    assert!(of("ndcg_at_10")["interval_95"][0].as_f64() <= of("ndcg_at_10")["value"].as_f64());
    let found = sandbox.run(&["predict", "--model", "run", "--data", "held.csv"]);
    let mut lines = found.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let first: Vec<Value> = lines.by_ref().take(4).collect();
    let mut ranks: Vec<u64> = first.iter().map(|said| said["rank"].as_u64().unwrap()).collect();
    let best = ranks.iter().position(|&rank| rank == 1).unwrap();
    assert!(first.iter().all(|said| said["score"].as_f64() <= first[best]["score"].as_f64()));
    ranks.sort_unstable();
    assert_eq!(ranks, [1, 2, 3, 4]);
    assert_eq!(lines.next_back().unwrap()["rank"], 1);

    sandbox.write("bad.csv", "query,text,label\ngood,fine,-1\n");
    let outcome = finetune(&sandbox, "rank", &["--model", "bert", "--train", "bad.csv"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("line 2 has \"-1\" in \"label\""), "{}", outcome.stderr);
    let outcome = finetune(&sandbox, "rank", &["--model", "bert", "--train", "train.csv"]);
    assert!(outcome.stderr.contains("line 2 has the relevance 2, expected at most 1"));
}
