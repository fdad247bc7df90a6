//! Runs on several processes that end by the clock, average weights, change as they go, or get into
//! trouble: the same as one process that takes the batches of all.

use std::fs;

use serde_json::Value;

use crate::distributed::{distance, launch, quiet, run};
use crate::support::{Sandbox, train_args};

fn lines(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    let text = fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(sandbox: &Sandbox, run: &str, name: &str) -> Vec<f64> {
    lines(sandbox, run).iter().map(|line| line[name].as_f64().unwrap_or(f64::NAN)).collect()
}

/// Trains on two processes into `many`, and on one that accumulates two batches into `one`.
fn train_both(sandbox: &Sandbox, flags: &[&str], many: &str, one: &str) {
    run(launch(sandbox, 2, &[flags, &["--out", many]].concat())).succeeds();
    let accumulates = ["--set", "train.accumulate=2", "--out", one];
    run(quiet(sandbox.command(&train_args(&[flags, &accumulates].concat())))).succeeds();
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64], most: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let close = (found / expected - 1.0).abs() < most;
        assert!(close || found.is_nan() && expected.is_nan(), "{found} {expected}");
    }
}

#[test]
fn averages_and_stages_on_ranks_are_those_of_one_process() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let stages = ["--set", "data.short_seq_len=16", "--set", "data.final_mask_rate=0.4"];
    for sharding in ["none", "states"] {
        let sharding = format!("optimizer.sharding={sharding}");
        let same = ["--preset", "baseline", "--set", "train.ema_decay=0.9", "--set", &sharding];
        let more = ["--set", "data.short_share=0.5", "--set", "model.biases=none", "--overwrite"];
        let same = [&same[..], &stages, &more, &["--checkpoint-every", "3"]].concat();
        train_both(&sandbox, &same, "many", "one");
        for folder in ["", "/model-ema"] {
            let of = |run: &str| crate::distributed::weights(&sandbox, &format!("{run}{folder}"));
            let apart = distance(&of("many"), &of("one"));
            assert!(apart < 1e-6, "{sharding}{folder}: off by {apart:.1e}");
        }
        for name in ["loss", "tokens"] {
            let [found, expected] = ["many", "one"].map(|run| numbers(&sandbox, run, name));
            assert_close(&found, &expected, 1e-5);
        }
        let average = || fs::read(sandbox.path("many/model-ema/model.safetensors")).unwrap();
        let before = average();
        let resume = ["--resume", "many/checkpoints/step-3", "--out", "many"];
        let same: Vec<&str> = same.iter().copied().filter(|flag| *flag != "--overwrite").collect();
        run(launch(&sandbox, 2, &[&same[..], &resume].concat())).succeeds();
        assert!(average() == before, "{sharding}: it goes on to the bit");
    }
}

#[test]
fn averages_of_divided_masters_are_exact() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    // Weights that stay are their own average: in FP32, where BF16 would be 0.4% off.
    let flags = ["--preset", "fastest", "--lr", "0", "--set", "train.ema_decay=0.9"];
    let sharded = ["--set", "compute.precision=bf16", "--set", "optimizer.sharding=states"];
    run(launch(&sandbox, 2, &[&flags[..], &sharded].concat())).succeeds();
    let of = |folder: &str| crate::distributed::weights(&sandbox, folder);
    let apart = distance(&of("run/model-ema"), &of("run"));
    assert!(apart < 1e-6, "off by {apart:.1e}");
}

#[test]
fn trouble_on_ranks_is_that_of_one_process() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    // At this rate losses differ by their batches alone, and the worst batch of all is the trouble.
    let flags = ["--max-steps", "30", "--checkpoint-every", "12", "--keep", "9", "--lr", "1e-6"];
    let flags = [&flags[..], &["--preset", "baseline", "--seq-len", "8", "--set"]].concat();
    train_both(&sandbox, &[&flags[..], &["train.spike_nats=0.0"]].concat(), "many", "one");
    let losses = numbers(&sandbox, "many", "loss");
    assert_close(&losses, &numbers(&sandbox, "one", "loss"), 1e-5);
    let worst = crate::lasting::excesses(&losses);
    let (bad, nats) = (worst[0].0, 0.5 * (worst[0].1 + worst[1].1));
    let nats = format!("train.spike_nats={nats}");
    for remedy in ["skip", "rollback"] {
        let policy = format!("train.on_spike={remedy}");
        let flags = [&flags[..], &[&nats, "--set", &policy]].concat();
        let [many, one] = ["many", "one"].map(|run| format!("{run}-{remedy}"));
        train_both(&sandbox, &flags, &many, &one);
        let trouble = |run: &str, at: usize| lines(&sandbox, run)[at]["trouble"][0].clone();
        let [found, expected] = [&many, &one].map(|run| trouble(run, bad - 1));
        for name in ["step", "kind", "remedy", "left_out", "back_to"] {
            assert_eq!(found[name], expected[name], "{remedy} {name}: {found} {expected}");
        }
        assert_eq!(found["remedy"], remedy);
        for name in ["loss", "grad_norm"] {
            let [found, expected] = [&many, &one].map(|run| numbers(&sandbox, run, name));
            assert_close(&found, &expected, 1e-4);
        }
    }
}

#[test]
fn a_time_ends_ranks_together_at_one_rate() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let train = ["train", "--corpus", "corpus.txt", "--max-minutes", "0.02", "--device", "cpu"];
    let sizes = ["--batch-size", "2", "--seq-len", "32", "--hidden-size", "32", "--num-layers"];
    let more = ["1", "--vocab-size", "400", "--set", "optimizer.sharding=states", "--out", "run"];
    let train = [&train[..], &sizes, &more].concat();
    let together = [&["launch", "--processes", "2", "--"][..], &train].concat();
    run(quiet(sandbox.command(&together))).succeeds();
    let rates = numbers(&sandbox, "run", "lr");
    let highest = rates.iter().copied().fold(0.0, f64::max);
    assert!(rates.len() > 3 && rates[0] < highest, "it warms up: {rates:?}");
    assert!(*rates.last().unwrap() < 0.5 * highest, "it ends low: {rates:?}");
    let by_steps = ["--set", "data.final_mask_rate=0.3", "--out", "x"];
    run(quiet(sandbox.command(&[&train[..], &by_steps].concat())))
        .refuses(&["data.final_mask_rate", "train.max_minutes"]);
}
