//! Fine-tuning that stops and goes on, on one process and on several, and presets.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::distributed::{distance, quiet, run, weights};
use crate::finetune::{QUICK, finetune, json, model, table, words};
use crate::support::Sandbox;

/// What must be equal: metrics without times, scores, the model, and the checkpoint after `last`
/// steps.
#[derive(Debug, PartialEq)]
struct Left {
    steps: Vec<String>,
    scores: String,
    files: Vec<Vec<u8>>,
}

fn steps(sandbox: &Sandbox, run: &str) -> Vec<String> {
    let text = std::fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let values = ["step", "loss", "grad_norm", "tokens", "lr", "held_out"];
        values.map(|name| line[name].to_string()).join(" ")
    };
    text.lines().map(line).collect()
}

fn left(sandbox: &Sandbox, run: &str, last: u64) -> Left {
    let summary = json(sandbox, &format!("{run}/summary.json"));
    let scores = ["best_step", "validation", "test", "steps", "tokens", "fingerprint"];
    let scores = scores.map(|name| summary[name].to_string()).join(" ");
    let checkpoint = format!("{run}/checkpoints/step-{last}");
    let mut files = vec![format!("{run}/model.safetensors")];
    for name in ["weights", "optimizer", "buffers", "best"] {
        files.push(format!("{checkpoint}/{name}.safetensors"));
    }
    files.push(format!("{checkpoint}/state.json"));
    let read = |file: &String| std::fs::read(sandbox.path(file)).unwrap();
    Left { steps: steps(sandbox, run), scores, files: files.iter().map(read).collect() }
}

/// Trains to the end, then once more from the checkpoint after 3 of `last` steps.
fn check(task: &str, name: &str, sandbox: &Sandbox, (data, last): (&str, u64), flags: &[&str]) {
    let all = [
        &["--model", name, "--train", data, "--validation", data, "--test", data][..],
        &["--out", "run", "--checkpoint-every", "3", "--set", "train.eval_every=2"],
        &["--set", "checkpoint.keep=9"],
        flags,
    ]
    .concat();
    finetune(sandbox, task, &all).succeeds();
    let expected = left(sandbox, "run", last);
    assert_eq!(expected.steps.len() as u64, last, "{task}");
    let again = [&all[..], &["--resume", "run/checkpoints/step-3"]].concat();
    let shown = finetune(sandbox, task, &again).succeeds().stdout;
    assert!(shown.contains("resume     after step 3"), "{shown}");
    let found = left(sandbox, "run", last);
    assert_eq!(found.steps, expected.steps, "{task}");
    assert_eq!(found.scores, expected.scores, "{task}");
    assert!(found.files == expected.files, "{task}: files");
}

#[test]
fn classes_go_on_to_the_bit_with_dropout_and_the_best_weights_until_then() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    sandbox.write("train.csv", table(24));
    // A rate at which later weights are worse: the best ones are those of the first measurement.
    let flags = ["--epochs", "2", "--lr", "0.1", "--set", "model.dropout=0.2"];
    check("classify", "bert", &sandbox, ("train.csv", 6), &flags);
}

#[test]
fn tags_written_texts_and_bf16_go_on_to_the_bit() {
    let sandbox = Sandbox::new();
    model(&sandbox, "relative_electra", "ElectraForMaskedLM");
    sandbox.write("words.txt", words());
    let flags = ["--epochs", "2", "--preset", "low-memory", "--set", "lora.rank=2"];
    check("tag", "relative_electra", &sandbox, ("words.txt", 6), &flags);

    let sandbox = Sandbox::new();
    crate::seq2seq::model(&sandbox);
    sandbox.write("pairs.csv", crate::seq2seq::table(24));
    let flags = ["--epochs", "2", "--max-target-length", "6", "--preset", "bf16"];
    check("seq2seq", "t5_1_0", &sandbox, ("pairs.csv", 6), &flags);
}

#[test]
fn a_signal_leaves_the_best_model_and_a_run_to_go_on_with() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    sandbox.write("train.csv", table(64));
    let args = [
        &["finetune", "classify"][..],
        &QUICK,
        &["--model", "bert", "--train", "train.csv", "--validation", "train.csv"],
        &["--epochs", "4000", "--out", "run", "--lr", "0.001"],
    ]
    .concat();
    let mut child = sandbox.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().unwrap();
    let began = Instant::now();
    let metrics = sandbox.path("run/metrics.jsonl");
    while std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 20 {
        assert!(began.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(20));
    }
    crate::distributed::signal("-INT", &child.id().to_string());
    let mut told = String::new();
    let mut stderr = child.stderr.take().unwrap();
    std::io::Read::read_to_string(&mut stderr, &mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{told}");
    for part in ["the best weights until then are in", "--config run/config.toml --resume auto"] {
        assert!(told.contains(part), "{told}");
    }
    assert!(sandbox.path("run/model.safetensors").exists());
    let last = json(&sandbox, "run/summary.json")["steps"].as_u64().unwrap();
    let again = ["--config", "run/config.toml", "--resume", "auto", "--epochs", "1"];
    let shown = sandbox.run(&[&["finetune", "classify"][..], &again].concat());
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(shown.stdout.contains(&format!("resume     after step {last}")), "{}", shown.stdout);
}

#[test]
fn other_examples_or_settings_are_no_run_to_go_on_with() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    sandbox.write("train.csv", table(24));
    let args = ["--model", "bert", "--train", "train.csv", "--checkpoint-every", "2"];
    let args = [&args[..], &["--epochs", "1", "--out", "run"]].concat();
    finetune(&sandbox, "classify", &args).succeeds();
    let resume = [&args[..], &["--resume", "auto"]].concat();
    let refused = [&resume[..], &["--set", "train.layer_decay=0.5"]].concat();
    finetune(&sandbox, "classify", &refused).refuses(&["train.layer_decay was 1.0 and is 0.5"]);
    sandbox.write("train.csv", table(24).replace("bad", "fine"));
    finetune(&sandbox, "classify", &resume).refuses(&["was trained on other data"]);
    let both = [&resume[..], &["--overwrite"]].concat();
    finetune(&sandbox, "classify", &both).refuses(&["--overwrite", "exclude each other"]);
}

#[test]
fn processes_learn_what_one_does_with_the_whole_batch() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    sandbox.write("train.csv", table(64));
    let args = [
        &["finetune", "classify", "--lr", "0.02", "--device", "cpu", "--epochs", "4"][..],
        &["--model", "bert", "--train", "train.csv", "--validation", "train.csv"],
        &["--set", "model.dropout=0", "--set", "optimizer.adamw.eps=1e-5"],
        &["--set", "compute.threads=1"],
    ]
    .concat();
    let one = [&args[..], &["--batch-size", "16", "--out", "one"]].concat();
    run(quiet(sandbox.command(&one))).succeeds();
    for (name, more) in [("two", ""), ("divided", "optimizer.sharding=states")] {
        let mut two = ["launch", "--processes", "2", "--"].to_vec();
        two.extend(&args);
        two.extend(["--batch-size", "8", "--out", name]);
        if !more.is_empty() {
            two.extend(["--set", more]);
        }
        let shown = run(quiet(sandbox.command(&two))).succeeds().stdout;
        assert!(shown.contains("processes  2"), "{shown}");
        let of = |run: &str| json(&sandbox, &format!("{run}/summary.json"));
        let (expected, found) = (of("one"), of(name));
        for key in ["accuracy", "f1_macro", "auc"] {
            let values = [&expected, &found].map(|all| all["validation"][key].as_f64().unwrap());
            assert!((values[0] - values[1]).abs() < 1e-6, "{name} {key}: {values:?}");
        }
        assert_eq!(found["steps"], expected["steps"]);
        let off = distance(&weights(&sandbox, name), &weights(&sandbox, "one"));
        assert!(off < 1e-3, "{name}: {off}");
    }
}

#[test]
fn presets_say_how_to_compute_and_others_are_refused() {
    let sandbox = Sandbox::new();
    model(&sandbox, "bert", "BertForMaskedLM");
    sandbox.write("train.csv", table(16));
    let args = ["--model", "bert", "--train", "train.csv", "--epochs", "1", "--out", "run"];
    let shown =
        finetune(&sandbox, "classify", &[&args[..], &["--preset", "baseline+bf16"]].concat());
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    let config = std::fs::read_to_string(sandbox.path("run/config.toml")).unwrap();
    for line in ["precision = \"bf16\"", "packing = \"padded\"", "kernels = \"plain\""] {
        assert!(config.contains(line), "{line}: {config}");
    }
    let again = [&args[..], &["--overwrite", "--preset", "recommended"]].concat();
    let shown = finetune(&sandbox, "classify", &again).succeeds().stdout;
    assert!(shown.contains("no effect  compute.execution of preset recommended"), "{shown}");
    for name in ["yarn", "muon", "fp8", "async-data"] {
        let args = [&args[..], &["--overwrite", "--preset", name]].concat();
        finetune(&sandbox, "classify", &args).refuses(&["--preset", name]);
    }
}
