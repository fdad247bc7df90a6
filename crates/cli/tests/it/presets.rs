//! The presets: `bert4rs presets`, and each of them in training. And `bert4rs doctor`.

use bert4rs_train::metrics::StepRecord;
use bert4rs_train::presets::PRESETS;
use bert4rs_train::summary::Summary;

use crate::support::Sandbox;

/// Presets whose model or updates are others than the baseline's.
const OTHERS: [&str; 5] = ["qk-norm", "yarn", "muon", "normuon", "recommended"];

/// Trains every preset of a family for a few steps. Those that promise the baseline's model must
/// have its losses, and all must see its data.
fn check_presets(family: &str) {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let mut expected: Option<(Vec<f64>, Option<String>)> = None;
    for preset in PRESETS.map(|preset| preset.name) {
        let steps = ["--max-steps", "3", "--set", "train.eval_sequences=0"];
        let run = ["--model", family, "--preset", preset, "--out", preset];
        sandbox.train(&[&run, &steps[..]].concat()).succeeds();
        let read = |name: &str| std::fs::read_to_string(sandbox.path(preset).join(name)).unwrap();
        let records: Vec<StepRecord> =
            read("metrics.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let losses: Vec<f64> = records.iter().map(|record| record.loss).collect();
        let summary: Summary = serde_json::from_str(&read("summary.json")).unwrap();
        let (baseline, seen) =
            expected.get_or_insert_with(|| (losses.clone(), summary.data_fingerprint.clone()));
        assert_eq!(*seen, summary.data_fingerprint, "{family} {preset}: other data");
        assert!(seen.is_some(), "{family}: no fingerprint");
        for (loss, baseline) in losses.iter().zip(baseline) {
            let apart = (loss - *baseline).abs() / *baseline;
            assert!(loss.is_finite(), "{family} {preset}: {losses:?}");
            // FP8 promises the same model with coarser products.
            let bound = if preset == "fp8" { 0.03 } else { 0.01 };
            assert!(
                apart < bound || OTHERS.contains(&preset),
                "{family} {preset}: loss {loss} instead of {baseline}"
            );
        }
    }
}

#[test]
fn every_preset_trains_a_bert() {
    check_presets("bert");
}

#[test]
fn every_preset_trains_a_gpt() {
    check_presets("gpt");
}

#[test]
fn every_preset_trains_a_t5() {
    check_presets("t5");
}

#[test]
fn fp8_on_a_cpu_says_that_it_is_emulated_and_goes_with_what_it_can() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let shown = sandbox.train(&["--preset", "fp8", "--device", "cpu"]).succeeds().stdout;
    assert!(shown.contains("emulated"), "{shown}");
    let both = ["compute.fp8.scaling=delayed", "compute.activation_checkpointing=blocks"];
    let both = ["--preset", "fp8", "--set", both[0], "--set", both[1], "--out", "no"];
    sandbox.train(&both).refuses(&["compute.activation_checkpointing", "delayed"]);
}

#[test]
fn presets_are_listed_and_shown_in_full() {
    let sandbox = Sandbox::new();
    let list = sandbox.run(&["presets"]).succeeds().stdout;
    assert!(list.contains("baseline") && list.contains("recommended"), "{list}");

    let shown = sandbox.run(&["presets", "show", "recommended"]).succeeds().stdout;
    assert!(shown.contains("logits = \"masked\""), "its own values: {shown}");
    assert!(shown.contains("seq_len = 128"), "the baseline's values: {shown}");
}

#[test]
fn presets_compose_and_are_held_against_each_other() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let shown = sandbox.run(&["presets", "show", "recommended", "normuon"]).succeeds().stdout;
    assert!(shown.contains("packing = \"packed\"") && shown.contains("[optimizer.muon.normuon]"));
    assert_eq!(shown, sandbox.run(&["presets", "show", "recommended+normuon"]).succeeds().stdout);

    let diff = |left, right| sandbox.run(&["presets", "diff", left, right]).succeeds().stdout;
    let found = diff("baseline", "bf16");
    assert_eq!(found.lines().count(), 2, "{found}");
    assert!(found.contains("compute.precision  \"fp32\"    \"bf16\""), "{found}");
    let found = diff("fastest", "fastest+muon");
    assert!(found.contains("optimizer.muon.lr") && found.contains("none"), "{found}");
    assert!(!found.contains("packing"), "{found}");
    assert!(diff("baseline", "muon+baseline").contains("optimizer.muon.lr"), "nothing undoes it");
    assert!(diff("flash", "flash").contains("the same values"));
    sandbox.run(&["presets", "diff", "baseline", "bf61"]).refuses(&["did you mean \"bf16\"?"]);

    let said = |presets: &[&str]| {
        let steps = ["--max-steps", "1", "--overwrite"];
        sandbox.train(&[presets, &steps[..]].concat()).succeeds().stdout
    };
    let plain = said(&["--preset", "muon"]);
    assert!(plain.contains("muon: all else as in baseline; for speed, --preset recommended+muon"));
    let composed = said(&["--preset", "recommended", "--preset", "muon"]);
    assert!(!composed.contains("for speed"), "{composed}");
    let config = std::fs::read_to_string(sandbox.path("run/config.toml")).unwrap();
    assert!(config.contains("packing = \"packed\"") && config.contains("[optimizer.muon]"));
}

#[test]
fn what_presets_show_prints_is_a_configuration() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let shown = sandbox.run(&["presets", "show", "baseline"]).succeeds().stdout;
    sandbox.write("shown.toml", shown);
    sandbox.train(&["--config", "shown.toml", "--corpus", "corpus.txt"]).succeeds();
}

#[test]
fn doctor_passes_its_own_checks() {
    let outcome = Sandbox::new().run(&["doctor", "--selftest"]).succeeds();
    assert!(outcome.stdout.contains("libtorch        2.11.0"), "{}", outcome.stdout);
    assert!(outcome.stdout.trim_end().ends_with("passed, 0 failed"), "{}", outcome.stdout);
}

#[test]
fn doctor_foretells_what_a_run_holds() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for preset in ["baseline", "recommended", "normuon"] {
        sandbox.train(&["--preset", preset, "--out", preset]).succeeds();
        let text = std::fs::read_to_string(sandbox.path(preset).join("summary.json")).unwrap();
        let summary: Summary = serde_json::from_str(&text).unwrap();
        let config = format!("{preset}/config.toml");
        let shown = sandbox.run(&["doctor", "--memory", "--config", &config]).succeeds().stdout;
        let together = shown.lines().find_map(|line| line.strip_prefix("together")).unwrap();
        let foretold: f64 = together.trim().strip_suffix(" MiB").unwrap().trim().parse().unwrap();
        let held = summary.parameter_memory_bytes as f64 / (1 << 20) as f64;
        // Shown to a tenth of a MiB.
        assert!((foretold - held).abs() <= 0.05 * held + 0.06, "{preset}: {foretold}, {held}");
    }
}

#[test]
fn doctor_needs_no_more_than_a_models_name() {
    let shown = Sandbox::new().run(&["doctor", "--memory", "--model", "bert-base"]).succeeds();
    assert!(shown.stdout.contains("109.51 M"), "{}", shown.stdout);
    Sandbox::new().run(&["doctor", "--model", "gpt2"]).refuses(&["add --memory"]);
    let unknown = Sandbox::new().run(&["doctor", "--memory", "--model", "bert-bse"]);
    unknown.refuses(&["--model", "did you mean bert-base?"]);
}
