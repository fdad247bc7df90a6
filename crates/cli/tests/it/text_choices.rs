//! Mixtures, duplicates, masks, packing and lengths, as a run has them.

use serde_json::Value;

use crate::support::{Outcome, Sandbox};

/// The records of a run's metrics.
fn records(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn losses(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    records(sandbox, run).into_iter().map(|record| record["loss"].clone()).collect()
}

/// Two corpora: documentation, and numbers.
fn two_corpora(sandbox: &Sandbox) {
    sandbox.corpus();
    let line = |number: u64| format!("{} {} {}\n\n", number, number * number, number * 7 % 1000);
    sandbox.write("numbers.txt", (0..2000).map(line).collect::<String>());
}

const MIXTURE: &str = "data.corpus=[{path = \"corpus.txt\", weight = 3}, \
                       {path = \"numbers.txt\", weight = 1}]";

fn train(sandbox: &Sandbox, out: &str, settings: &[&str]) -> Outcome {
    let mut args = vec!["--out", out, "--corpus", "corpus.txt"];
    settings.iter().for_each(|setting| args.extend(["--set", setting]));
    sandbox.train(&args)
}

fn mixed(sandbox: &Sandbox, out: &str, extra: &[&str]) -> Outcome {
    // A list with weights stands in a file, as flags have the last word.
    let corpus = MIXTURE.split_once('=').unwrap().1;
    sandbox.write("mixture.toml", format!("[data]\ncorpus = {corpus}\n"));
    let args = ["--config", "mixture.toml", "--out", out, "--set", "train.eval_every=4"];
    sandbox.train(&[&args, extra].concat())
}

#[test]
fn corpora_are_mixed_by_weight_with_a_loss_each() {
    let sandbox = Sandbox::new();
    two_corpora(&sandbox);
    let extra = ["--max-steps", "40", "--batch-size", "4"];
    let run = mixed(&sandbox, "run", &extra).succeeds();
    for part in ["corpus     corpus: 75.00%", "corpus     numbers: 25.00%"] {
        assert!(run.stdout.contains(part), "no {part:?} in: {}", run.stdout);
    }
    let records = records(&sandbox, "run");
    let shares =
        &records.iter().rfind(|record| record.get("corpora").is_some()).unwrap()["corpora"];
    let share = shares["numbers"].as_f64().unwrap();
    assert!((0.1..0.4).contains(&share), "{shares}");
    let held_out =
        &records.iter().rfind(|record| record.get("held_out").is_some()).unwrap()["held_out"];
    for name in ["loss", "loss of corpus", "loss of numbers"] {
        assert!(held_out[name].as_f64().unwrap() > 0.0, "no {name} in {held_out}");
    }
}

#[test]
fn a_mixture_goes_on_to_the_bit() {
    let sandbox = Sandbox::new();
    two_corpora(&sandbox);
    mixed(&sandbox, "whole", &[]).succeeds();
    mixed(&sandbox, "halves", &["--max-steps", "3", "--checkpoint-every", "3"]).succeeds();
    let resumed = mixed(&sandbox, "halves", &["--resume", "auto"]);
    // Steps decide the schedule, so that only what was shown can be compared.
    resumed.succeeds();
    let tokens = |run: &str| -> Vec<Value> {
        records(&sandbox, run).into_iter().map(|record| record["tokens"].clone()).collect()
    };
    assert_eq!(tokens("whole"), tokens("halves"));
}

#[test]
fn mixtures_that_can_not_be_used_are_refused() {
    let sandbox = Sandbox::new();
    two_corpora(&sandbox);
    let refused = |corpus: &str, parts: &[&str]| {
        sandbox.write("bad.toml", format!("[data]\ncorpus = {corpus}\n"));
        sandbox.train(&["--config", "bad.toml", "--out", "run"]).refuses(parts);
    };
    let one = "{path = \"corpus.txt\", weight = 1}";
    refused(&format!("[{one}, \"numbers.txt\"]"), &["data.corpus", "give each one"]);
    refused("[{path = \"corpus.txt\", weight = 0}]", &["data.corpus", "weight 0"]);
    refused("[{path = \"corpus.txt\", wieght = 1}]", &["data.corpus", "weight"]);
}

#[test]
fn duplicates_are_counted_or_dropped_and_listed() {
    let sandbox = Sandbox::new();
    let words = |seed: u64| -> String {
        (0..60).map(|word| format!("w{} ", (seed * 7919 + word * word * 31) % 997)).collect()
    };
    let documents: Vec<String> = (0..60).map(words).collect();
    let near = documents[5].replace(&documents[5][..4], "once ");
    let text = documents.join("\n\n") + "\n\n" + &documents[3] + "\n\n" + &near;
    sandbox.write("corpus.txt", text);
    let prepared = |how: &str| {
        let setting = format!("data.duplicates={how}");
        let args =
            ["data", "prepare", "--corpus", "corpus.txt", "--vocab-size", "400", "--out", how];
        let outcome = sandbox.run(&[&args[..], &["--set", &setting]].concat()).succeeds();
        let line = outcome.stdout.lines().find(|line| line.starts_with("prepared")).unwrap();
        let documents: u64 = line.split_whitespace().nth(4).unwrap().parse().unwrap();
        (documents, outcome.stdout.clone())
    };
    assert_eq!(prepared("keep").0, 62);
    let (count, said) = prepared("count");
    assert!(count == 62 && said.contains("1 equal documents and 1 near ones are there"), "{said}");
    assert_eq!(prepared("drop-exact").0, 61);
    let (count, said) = prepared("drop-near");
    assert!(
        count == 60 && said.contains("1 equal documents and 1 near ones were dropped"),
        "{said}"
    );
    let list = std::fs::read_to_string(sandbox.path("drop-near/duplicates.jsonl")).unwrap();
    let lines: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["kind"], &lines[0]["document"]), (&"equal".into(), &60.into()));
    assert_eq!((&lines[1]["kind"], &lines[1]["like"]["document"]), (&"near".into(), &5.into()));
}

#[test]
fn masks_packing_and_lengths_are_choices_of_a_run() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    train(&sandbox, "plain", &[]).succeeds();
    let settings: [&[&str]; 5] = [
        &["data.mask_unit=words"],
        &["data.mask_unit=spans"],
        &["data.mask_rate=0.3", "data.final_mask_rate=0.15"],
        &["data.short_seq_len=16", "data.short_share=0.5"],
        &["data.fit=best"],
    ];
    for (number, settings) in settings.into_iter().enumerate() {
        let (run, again) = (format!("run{number}"), format!("again{number}"));
        let chosen = train(&sandbox, &run, settings).succeeds().stdout;
        assert!(chosen.contains("of the documents are split"), "{chosen}");
        assert_ne!(losses(&sandbox, &run), losses(&sandbox, "plain"), "{settings:?}");
        // What changes in the course of a run depends on a batch's number alone.
        if settings.len() == 1 {
            continue;
        }
        let ahead = [settings, &["data.prefetch=3", "data.workers=2"]].concat();
        train(&sandbox, &again, &ahead).succeeds();
        assert_eq!(losses(&sandbox, &run), losses(&sandbox, &again), "{settings:?}");
    }
    let tokens: Vec<u64> =
        records(&sandbox, "run3").iter().map(|record| record["tokens"].as_u64().unwrap()).collect();
    assert!(tokens[..3].iter().all(|&count| count <= 32) && tokens[3] > 32, "{tokens:?}");
    let t5 = ["data.denoising=ul2", "model.family=t5"];
    train(&sandbox, "ul2", &t5).succeeds();
}

#[test]
fn choices_of_other_families_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let refused =
        |settings: &[&str], parts: &[&str]| train(&sandbox, "run", settings).refuses(parts);
    refused(&["data.denoising=ul2"], &["data.denoising", "T5's alone"]);
    refused(&["model.family=gpt", "data.mask_unit=words"], &["data.mask_unit", "BERT's alone"]);
    refused(&["model.family=gpt", "data.final_mask_rate=0.1"], &["data.final_mask_rate"]);
    refused(&["data.short_seq_len=32"], &["data.short_seq_len", "below data.seq_len 32"]);
    refused(&["data.final_mask_rate=0.001"], &["data.final_mask_rate", "raise it"]);
    refused(&["data.prefetch=often"], &["data.prefetch", "auto"]);
}

#[test]
fn what_pays_is_measured_and_said() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let run = |out: &str, prefetch: &str| {
        sandbox.train(&["--out", out, "--max-steps", "14", "--set", prefetch]).succeeds()
    };
    let measured = run("auto", "data.prefetch=auto").stdout;
    assert!(measured.contains("batches    take ") && measured.contains("of the first steps"));
    run("loop", "data.prefetch=0");
    assert_eq!(losses(&sandbox, "auto"), losses(&sandbox, "loop"));
}
