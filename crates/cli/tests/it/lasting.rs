//! Runs that last: when they end, what they do about trouble, what they measure and keep on the
//! way.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bert4rs_tensor_core::{Tensor, safetensors};
use serde_json::Value;

use crate::support::{Sandbox, train_args};

fn metrics(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn summary(sandbox: &Sandbox, run: &str) -> Value {
    let text = std::fs::read_to_string(sandbox.path(run).join("summary.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn tensors(sandbox: &Sandbox, file: &str) -> BTreeMap<String, Tensor> {
    safetensors::load(&sandbox.path(file)).unwrap()
}

/// The steps' numbers that don't depend on the clock.
fn losses(sandbox: &Sandbox, run: &str) -> Vec<String> {
    let names = ["step", "loss", "grad_norm", "tokens", "lr", "trouble"];
    let line = |line: &Value| names.map(|name| line[name].to_string()).join(" ");
    metrics(sandbox, run).iter().map(line).collect()
}

#[test]
fn a_time_ends_a_run_and_its_schedule() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let flags = ["train", "--max-minutes", "0.02", "--corpus", "corpus.txt", "--out", "run"];
    let sizes = ["--batch-size", "2", "--seq-len", "32", "--hidden-size", "32", "--num-layers"];
    let more = ["1", "--vocab-size", "400", "--device", "cpu", "--set", "train.eval_sequences=4"];
    sandbox.run(&[&flags[..], &sizes, &more].concat()).succeeds();
    let steps = metrics(&sandbox, "run");
    let rates: Vec<f64> = steps.iter().map(|line| line["lr"].as_f64().unwrap()).collect();
    let highest = rates.iter().copied().fold(0.0, f64::max);
    assert!(rates.len() > 3 && rates[0] < highest, "it warms up: {rates:?}");
    assert!(*rates.last().unwrap() < 0.5 * highest, "it ends low: {rates:?}");
    assert_eq!(summary(&sandbox, "run")["steps"], steps.len());
    sandbox.train(&["--max-minutes", "1"]).refuses(&["--max-minutes", "--max-steps"]);
    let warmup = ["--set", "schedule.warmup={steps=5}", "--set", "train.max_minutes=1"];
    sandbox
        .run(&[&["train", "--corpus", "corpus.txt"], &warmup[..]].concat())
        .refuses(&["schedule.warmup", "fraction"]);
}

#[test]
fn a_held_out_loss_that_gets_no_better_ends_a_run() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let flags = ["--lr", "0", "--set", "train.eval_every=1", "--set", "train.patience=2"];
    let shown = sandbox.train(&[&["--keep", "1"], &flags[..]].concat()).succeeds().stdout;
    assert!(shown.contains("ended early after step 3"), "{shown}");
    assert_eq!(metrics(&sandbox, "run").len(), 3);
    let why = summary(&sandbox, "run")["ended_early"].to_string();
    assert!(why.contains("after step 1"), "{why}");
    assert_eq!(sandbox.list("run/checkpoints"), ["step-1"], "the best is kept");
    sandbox
        .train(&["--out", "x", "--set", "train.patience=2"])
        .refuses(&["train.patience", "train.eval_every"]);
    sandbox
        .train(&["--out", "x", "--set", "train.min_delta=0.1"])
        .refuses(&["train.min_delta", "train.patience"]);
}

#[test]
fn measuring_leaves_training_as_it_is() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for family in ["bert", "gpt", "t5"] {
        let flags = ["--model", family, "--set", "model.dropout=0.1"];
        let dropout = ["--set", "model.attention_dropout=0.1", "--set", "compute.attention=plain"];
        let flags = [&flags[..], &dropout].concat();
        let runs = ["without", "with"].map(|name| format!("{family}-{name}"));
        sandbox.train(&[&flags[..], &["--out", &runs[0]]].concat()).succeeds();
        let each = ["--set", "train.eval_every=1", "--set", "train.update_ratio_every=2"];
        sandbox
            .train(&[&flags[..], &each, &["--tensorboard", "--out", &runs[1]]].concat())
            .succeeds();
        assert_eq!(losses(&sandbox, &runs[0]), losses(&sandbox, &runs[1]), "{family}");
        let [without, with] =
            runs.each_ref().map(|run| tensors(&sandbox, &format!("{run}/model.safetensors")));
        assert!(without == with, "{family}");
        for (index, line) in metrics(&sandbox, &runs[1]).iter().enumerate() {
            let held_out = |name: &str| line["held_out"][name].as_f64().unwrap();
            let (loss, accuracy) = (held_out("loss"), held_out("accuracy"));
            assert!((held_out("perplexity") - loss.exp()).abs() < 1e-6 * loss.exp());
            assert!((0.0..=1.0).contains(&accuracy), "{accuracy}");
            let ratios = line["update_ratio"].as_object();
            assert_eq!(ratios.is_some(), (index + 1).is_multiple_of(2), "{family} {index}");
            let moved = |ratio: &Value| ratio.as_f64().unwrap() > 0.0;
            assert!(ratios.is_none_or(|ratios| ratios.values().any(moved)), "{ratios:?}");
        }
        sandbox.run(&["report", &runs[1], "--out", &format!("{family}.html")]).succeeds();
        let page = std::fs::read_to_string(sandbox.path(&format!("{family}.html"))).unwrap();
        assert!(page.contains("Held-out loss") && page.contains("Held-out accuracy"));
    }
}

/// How far each of these losses is above the median of those before it, where there are enough.
pub(crate) fn excesses(losses: &[f64]) -> Vec<(usize, f64)> {
    let excess = |index: usize| {
        let mut before = losses[..index].to_vec();
        before.sort_by(f64::total_cmp);
        (index + 1, losses[index] - before[before.len() / 2])
    };
    let mut all: Vec<(usize, f64)> = (20..losses.len()).map(excess).collect();
    all.sort_by(|left, right| right.1.total_cmp(&left.1));
    all
}

#[test]
fn trouble_is_skipped_or_left_out_and_written_down() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    // At this rate losses differ by their batches alone, and the worst batch of all is the trouble.
    let flags = ["--max-steps", "40", "--checkpoint-every", "12", "--keep", "9", "--lr", "1e-6"];
    let flags = [&flags[..], &["--preset", "baseline", "--seq-len", "8", "--set"]].concat();
    let quiet = [&flags[..], &["train.spike_nats=0.0", "--out", "quiet"]].concat();
    sandbox.train(&quiet).succeeds();
    let all: Vec<f64> =
        metrics(&sandbox, "quiet").iter().map(|line| line["loss"].as_f64().unwrap()).collect();
    let worst = excesses(&all);
    let bad = worst[0].0;
    let nats = format!("train.spike_nats={}", 0.5 * (worst[0].1 + worst[1].1));
    let flags = [&flags[..], &[&nats]].concat();
    sandbox.train(&[&flags[..], &["--out", "stops"]].concat()).fails(&["far above"]);
    assert_eq!(metrics(&sandbox, "stops").len(), bad, "it ended there");

    for remedy in ["skip", "rollback"] {
        let policy = format!("train.on_spike={remedy}");
        let flags = [&flags[..], &["--set", &policy]].concat();
        sandbox.train(&[&flags[..], &["--out", remedy]].concat()).succeeds();
        let steps = metrics(&sandbox, remedy);
        let numbers: Vec<u64> = steps.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=40).collect::<Vec<_>>(), "no gap, no repeated step");
        let trouble = &steps[bad - 1]["trouble"][0];
        assert_eq!((&trouble["kind"], &trouble["remedy"]), (&"spike".into(), &remedy.into()));
        if remedy == "rollback" {
            assert_eq!(trouble["left_out"], bad - 1, "the batch of that step");
            assert!(summary(&sandbox, remedy)["rollbacks"].as_u64().unwrap() > 0);
        } else {
            assert!(steps[bad - 1]["grad_norm"].is_null(), "it changed nothing");
        }

        // From before and from after it, a run that goes on is the same to the bit.
        let expected = losses(&sandbox, remedy);
        let weights = tensors(&sandbox, &format!("{remedy}/model.safetensors"));
        for step in [12, 36] {
            let from = format!("{remedy}/checkpoints/step-{step}");
            let resume = ["--out", remedy, "--resume", &from];
            sandbox.train(&[&flags[..], &resume].concat()).succeeds();
            assert_eq!(losses(&sandbox, remedy), expected, "{remedy} from {step}");
            let again = tensors(&sandbox, &format!("{remedy}/model.safetensors"));
            assert!(again == weights, "{remedy} from {step}");
        }
    }
    let capturable = ["--set", "compute.execution=capturable", "--set", "train.on_spike=skip"];
    sandbox
        .train(&[&flags[..], &capturable, &["--out", "x"]].concat())
        .refuses(&["train.on_spike", "eager"]);
    sandbox.train(&["--set", "train.on_spike=skip"]).refuses(&["train.spike_nats"]);
    sandbox
        .train(&["--set", "train.on_nan=rollback", "--checkpoint-every", "never"])
        .refuses(&["train.on_nan", "checkpoint.every"]);
}

#[test]
fn a_loss_that_is_no_number_is_skipped_or_gone_back_from() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    // Weights that such a rate ruins make no finite loss again: skipping and going back both end.
    let flags = ["--preset", "baseline", "--set", "optimizer.adamw.lr=1e30"];
    let run = |remedy: &str, out: &str, parts: &[&str]| {
        let policy = format!("train.on_nan={remedy}");
        let more = ["--set", &policy, "--max-steps", "30", "--out", out];
        sandbox.train(&[&flags[..], &more].concat()).fails(parts);
    };
    run("stop", "stop", &["loss", "lr"]);
    run("skip", "skip", &["not finite"]);
    run("rollback", "rollback", &["going back 20 times"]);
    assert!(metrics(&sandbox, "skip").len() > metrics(&sandbox, "stop").len());
}

#[test]
fn an_average_of_the_weights_is_kept_and_exported() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for preset in ["baseline", "fastest"] {
        let out = format!("run-{preset}");
        let flags = ["--preset", preset, "--out", &out, "--set", "train.ema_decay=0.9"];
        let flags = [&flags[..], &["--checkpoint-every", "3"]].concat();
        sandbox.train(&flags).succeeds();
        let average = || tensors(&sandbox, &format!("{out}/model-ema/model.safetensors"));
        let model = || tensors(&sandbox, &format!("{out}/model.safetensors"));
        let (first, weights) = (average(), model());
        assert!(first != weights);
        assert_eq!(first.keys().collect::<Vec<_>>(), weights.keys().collect::<Vec<_>>());
        assert!(summary(&sandbox, &out)["held_out_average_loss"].as_f64().unwrap() > 0.0);
        let text = ["--text", "A crate [MASK] files."];
        let folder = format!("{out}/model-ema");
        sandbox.run(&[&["fill-mask", "--model", &folder], &text[..]].concat()).succeeds();

        let from = format!("{out}/checkpoints/step-3");
        sandbox.train(&[&flags[..], &["--resume", &from]].concat()).succeeds();
        assert!(average() == first && model() == weights, "{preset}");
        let other = ["--resume", &from, "--set", "train.ema_decay=0.5"];
        sandbox.train(&[&flags[..], &other].concat()).refuses(&["train.ema_decay"]);
    }
}

#[test]
fn frozen_parameters_stay_and_others_have_their_own_rate() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let frozen = "optimizer.groups=[{names='bert.embeddings.*',frozen=true}]";
    for (out, steps) in [("short", "1"), ("long", "6")] {
        let flags = ["--set", frozen, "--max-steps", steps, "--out", out];
        sandbox.train(&flags).succeeds();
    }
    let (short, long) =
        (tensors(&sandbox, "short/model.safetensors"), tensors(&sandbox, "long/model.safetensors"));
    let table = "bert.embeddings.word_embeddings.weight";
    assert!(short[table] == long[table], "frozen");
    let inner = "bert.encoder.layer.0.output.dense.weight";
    assert!(short[inner] != long[inner], "trained");
    let nothing = "optimizer.groups=[{names='gpt.*',lr_scale=0.1}]";
    sandbox
        .train(&["--set", nothing, "--out", "x"])
        .refuses(&["groups.names", "matches no parameter"]);
}

/// Waits until `path` is there.
fn wait_for(path: &std::path::Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < Duration::from_secs(120), "no {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_old_run_gives_way_at_the_first_checkpoint_of_the_new_one() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.train(&[]).succeeds();
    sandbox.write("run/notes.txt", "mine");
    let flags = ["--overwrite", "--max-steps", "100000", "--checkpoint-every", "5"];
    let mut command = sandbox.command(&train_args(&[&flags[..], &["--seed", "7"]].concat()));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&sandbox.path("run/checkpoints/step-10"));
    assert!(!sandbox.path("run.new").exists(), "it has taken its place");
    // Another run of that name is told.
    sandbox.train(&["--overwrite"]).refuses(&["run", "another process"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let text = std::fs::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(text.starts_with("seed = 7"), "{text}");
    assert!(sandbox.path("run/notes.txt").exists());
    let resume = ["train", "--config", "run/config.toml", "--resume", "auto", "--max-steps", "20"];
    let outcome = sandbox.run(&resume);
    assert!(outcome.code == Some(0) || outcome.stderr.contains("max_steps"), "{}", outcome.stderr);
}

#[test]
fn a_second_signal_ends_at_once_and_damages_nothing() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let flags = ["--max-steps", "60", "--checkpoint-every", "2", "--set", "model.dropout=0.1"];
    sandbox.train(&[&flags[..], &["--out", "whole"]].concat()).succeeds();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut command = sandbox.command(&train_args(&flags));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(&sandbox.path("run/checkpoints/step-4"));
        for _ in 0..2 {
            let id = child.id().to_string();
            std::process::Command::new("kill").args([signal, &id]).status().unwrap();
        }
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(code));
        sandbox.train(&[&flags[..], &["--resume", "auto"]].concat()).succeeds();
        assert_eq!(losses(&sandbox, "run"), losses(&sandbox, "whole"), "{signal}");
        let [found, expected] =
            ["run", "whole"].map(|run| tensors(&sandbox, &format!("{run}/model.safetensors")));
        assert!(found == expected, "{signal}");
        std::fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}

#[test]
fn memory_that_does_not_suffice_inside_a_model_is_told_with_what_to_lower() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    // All scores of attention at once: 64 · 2 heads · 2048² numbers are 2 GiB and more.
    let flags = ["--preset", "baseline", "--batch-size", "64", "--seq-len", "2048", "--set"];
    let flags = [&flags[..], &["compute.threads=1", "--set", "data.held_out=0.0"]].concat();
    let args = train_args(&flags);
    let command = sandbox.command(&args);
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy());
    let words: Vec<String> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let script = format!("ulimit -v 4000000 && exec {}", words.join(" "));
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &script]).current_dir(sandbox.path(""));
    limited.env("XDG_CACHE_HOME", sandbox.path("cache"));
    let outcome = crate::support::Outcome::new(limited.output().unwrap());
    let shape = "data.batch_size 64 × data.seq_len 2048";
    outcome.fails(&["out of memory", shape, "lower data.batch_size"]);
}
