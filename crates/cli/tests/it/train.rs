//! `bert4rs train` on a small real text.

use bert4rs_train::metrics::StepRecord;
use bert4rs_train::summary::Summary;

use crate::support::Sandbox;

fn records(sandbox: &Sandbox, run: &str) -> Vec<StepRecord> {
    let text = std::fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn losses(sandbox: &Sandbox, run: &str) -> Vec<f64> {
    records(sandbox, run).iter().map(|record| record.loss).collect()
}

#[test]
fn a_run_leaves_everything_that_it_promises() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let shown = sandbox.train(&[]).succeeds().stdout;
    assert!(shown.contains("Step 6/6 | Loss: "), "{shown}");
    assert!(!shown.contains('\u{1b}') && !shown.contains('\r'), "no bar in a pipe: {shown:?}");
    assert_eq!(
        sandbox.list("run"),
        [
            ".bert4rs-run",
            "config.json",
            "config.toml",
            "metrics.jsonl",
            "model.safetensors",
            "run.json",
            "summary.json",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    let records = records(&sandbox, "run");
    assert_eq!(records.iter().map(|record| record.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(records.iter().all(|record| record.loss.is_finite() && record.tokens_per_s > 0.0));

    let text = std::fs::read_to_string(sandbox.path("run/summary.json")).unwrap();
    let summary: Summary = serde_json::from_str(&text).unwrap();
    assert_eq!((summary.steps, summary.positions), (6, 6 * 2 * 32), "packed by default");
    // A packed row has fewer than 8 positions of padding.
    assert!(summary.tokens <= summary.positions && summary.tokens > summary.positions - 6 * 2 * 8);
    assert_eq!(records.iter().map(|record| record.tokens).sum::<u64>(), summary.tokens);
    assert!(records.iter().all(|record| record.muon_lr.is_none()));
    // The heads of this model have 16 features, which our own kernel does not take.
    assert_eq!((&*summary.attention, &*summary.attention_backend), ("fused", "flash"));
    assert!(summary.held_out_loss.unwrap().is_finite());
    assert!(summary.time_to_first_step_s <= summary.total_time_s);
    assert!((0.0..1.0).contains(&summary.speed_of_light), "{}", summary.speed_of_light);
    assert!(summary.peak_memory_bytes > 1 << 20);
}

#[test]
fn a_run_is_repeated_from_its_configuration() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for preset in ["baseline", "recommended"] {
        let again = format!("{preset}-again");
        sandbox.train(&["--preset", preset, "--seed", "7", "--out", preset]).succeeds();
        let config = format!("{preset}/config.toml");
        sandbox.run(&["train", "--config", &config, "--out", &again]).succeeds();
        assert_eq!(losses(&sandbox, preset), losses(&sandbox, &again), "{preset}");
        let model = |run: &str| std::fs::read(sandbox.path(run).join("model.safetensors")).unwrap();
        assert!(model(preset) == model(&again), "{preset}: bytes of the model");
    }
}

#[test]
fn presets_train_the_same_model_in_every_family() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for family in ["bert", "gpt", "t5"] {
        let [baseline, fastest] = ["baseline", "fastest"].map(|preset| {
            let run = format!("{family}-{preset}");
            sandbox.train(&["--model", family, "--preset", preset, "--out", &run]).succeeds();
            records(&sandbox, &run)
        });
        let positions = |records: &[StepRecord]| records.iter().map(|r| r.positions).sum::<u64>();
        assert!(positions(&baseline) >= positions(&fastest), "{family}: the baseline pads");
        for (baseline, fastest) in baseline.iter().zip(&fastest) {
            assert_eq!(baseline.tokens, fastest.tokens, "{family}: the same batches");
            let apart = (baseline.loss - fastest.loss).abs() / baseline.loss;
            let step = baseline.step;
            assert!(apart < 0.01, "{family}, step {step}: {baseline:?} and {fastest:?}");
        }
    }
    let fingerprint = |run: &str| {
        let text = std::fs::read_to_string(sandbox.path(run).join("summary.json")).unwrap();
        serde_json::from_str::<Summary>(&text).unwrap().data_fingerprint.unwrap()
    };
    for family in ["bert", "gpt", "t5"] {
        let [padded, packed] =
            ["baseline", "fastest"].map(|preset| fingerprint(&format!("{family}-{preset}")));
        assert_eq!(padded, packed, "{family}: the same text and labels");
    }
    for (family, class) in
        [("bert", "BertForMaskedLM"), ("gpt", "GPT2LMHeadModel"), ("t5", "T5ForConditionalGen")]
    {
        let path = sandbox.path(&format!("{family}-fastest/config.json"));
        let config = std::fs::read_to_string(path).unwrap();
        assert!(config.contains(class), "{family}: {config}");
    }
}

#[test]
fn a_run_that_comes_apart_ends_with_exit_code_1() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    // Losses stay finite: far above a guess is enough.
    let fast = ["--lr", "1e4", "--set", "schedule.warmup={ steps = 0 }"];
    sandbox.train(&fast).fails(&["diverged", "optimizer.adamw.lr"]);
    assert!(!losses(&sandbox, "run").is_empty(), "what was recorded stays");
    // Even where the only update shows in the held-out loss alone.
    let one = ["--max-steps", "1", "--out", "one"];
    sandbox.train(&[&fast, &one[..]].concat()).fails(&["the held-out loss", "diverged"]);
}

#[test]
fn settings_without_effect_are_said() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let masters = "optimizer.masters=bf16_residual";
    let idle = ["--set", masters, "--set", "compute.precision=fp32", "--max-steps", "1"];
    let shown = sandbox.train(&idle).succeeds().stdout;
    assert!(shown.contains("no effect  optimizer.masters"), "{shown}");
    let shown = sandbox.train(&["--max-steps", "1", "--out", "other"]).succeeds().stdout;
    assert!(!shown.contains("no effect"), "{shown}");
}

#[test]
fn every_departure_trains() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for family in ["bert", "gpt", "t5"] {
        let mut args = vec!["--model", family, "--max-steps", "2", "--overwrite"];
        for departure in [
            "model.norm=rms",
            "model.norm_placement=pre",
            "model.feed_forward=swiglu",
            "model.positions={ kind = \"yarn\", factor = 4.0 }",
            "model.qk_norm=true",
            "model.kv_heads=1",
            "model.window=8",
            "model.zero_init=true",
            "model.logit_soft_cap=30",
            "loss.z_loss=1e-4",
            "loss.label_smoothing=0.1",
        ] {
            args.extend(["--set", departure]);
        }
        sandbox.train(&args).succeeds();
        assert!(losses(&sandbox, "run").iter().all(|loss| loss.is_finite()), "{family}");
    }
}

#[test]
fn accumulated_batches_are_one_larger_batch() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let baseline = |batch_size: &str, accumulate: &str, out: &str| {
        let accumulate = format!("train.accumulate={accumulate}");
        let sizes = ["--batch-size", batch_size, "--set", &accumulate];
        sandbox.train(&[&["--preset", "baseline", "--out", out], &sizes[..]].concat()).succeeds();
    };
    baseline("4", "1", "one");
    baseline("2", "2", "two");
    for (one, two) in losses(&sandbox, "one").into_iter().zip(losses(&sandbox, "two")) {
        assert!((one - two).abs() < 1e-4, "{one} and {two}");
    }
}

#[test]
fn steps_that_no_one_waits_for_train_the_same_model() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for family in ["bert", "gpt", "t5"] {
        for preset in ["baseline", "recommended"] {
            let [eager, capturable] = ["eager", "capturable"].map(|execution| {
                let (run, set) =
                    (format!("{family}-{execution}"), format!("compute.execution={execution}"));
                let common = ["--model", family, "--preset", preset, "--out", &run, "--overwrite"];
                let sets = ["--set", &set, "--set", "train.accumulate=2"];
                sandbox.train(&[&common[..], &sets].concat()).succeeds();
                records(&sandbox, &run)
            });
            for (eager, capturable) in eager.iter().zip(&capturable) {
                let apart = |left: f64, right: f64| (left - right).abs() / left;
                let loss = apart(eager.loss, capturable.loss);
                let norm = apart(eager.grad_norm, capturable.grad_norm);
                let both = format!("{eager:?} and {capturable:?}");
                assert!(loss < 1e-3 && norm < 1e-2, "{family} {preset}: {both}");
            }
        }
    }
    let shown = sandbox.train(&["--out", "auto"]).succeeds().stdout;
    assert!(shown.contains("execution  eager, without CUDA graphs: they are for GPUs"), "{shown}");
}

#[test]
fn a_run_is_overwritten_only_when_asked() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.train(&["--seed", "1"]).succeeds();
    let before = losses(&sandbox, "run");
    sandbox.train(&["--seed", "2"]).refuses(&["run", "--overwrite", "--out"]);
    assert_eq!(losses(&sandbox, "run"), before);
    // Bad input leaves the old run alone even with --overwrite.
    sandbox.train(&["--overwrite", "--corpus", "nowhere.txt"]).refuses(&["nowhere.txt"]);
    assert_eq!(losses(&sandbox, "run"), before);
    // So does a run that can't go on.
    sandbox.train(&["--overwrite", "--set", "optimizer.adamw.lr=1e30"]).fails(&["lr"]);
    assert_eq!(losses(&sandbox, "run"), before);
    assert!(sandbox.path("run/model.safetensors").exists());
    sandbox.train(&["--seed", "2", "--overwrite"]).succeeds();
    assert_ne!(losses(&sandbox, "run"), before);
    assert_eq!(sandbox.list("run.new"), [""; 0], "it took the old one's place");
}

#[test]
fn the_default_folder_is_the_first_that_is_free() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let args = ["train", "--corpus", "corpus.txt", "--max-steps", "1", "--vocab-size", "400"];
    sandbox.run(&args).succeeds();
    sandbox.run(&args).succeeds();
    assert_eq!(sandbox.list("runs"), ["recommended-1", "recommended-2"]);
}
