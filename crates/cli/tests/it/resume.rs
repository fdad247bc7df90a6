//! Runs that stop, in whatever way, go on to the bit.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bert4rs_train::presets::PRESETS;

use crate::support::{Sandbox, train_args};

/// What must be equal: metrics without times, and every tensor of model and checkpoint.
#[derive(PartialEq)]
struct Left {
    losses: Vec<String>,
    files: Vec<Vec<u8>>,
}

fn left(sandbox: &Sandbox, run: &str, last: u64) -> Left {
    let text = std::fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
    let losses = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let values = ["step", "loss", "grad_norm", "tokens", "lr", "held_out"];
        values.map(|name| line[name].to_string()).join(" ")
    });
    let checkpoint = sandbox.path(run).join(format!("checkpoints/step-{last}"));
    let mut files = vec![std::fs::read(sandbox.path(run).join("model.safetensors")).unwrap()];
    for name in ["weights", "optimizer", "buffers"] {
        files.push(std::fs::read(checkpoint.join(format!("{name}.safetensors"))).unwrap());
    }
    let state = std::fs::read(checkpoint.join("state.json")).unwrap();
    files.push(state);
    Left { losses: losses.collect(), files }
}

fn assert_same(what: &str, found: &Left, expected: &Left) {
    assert_eq!(found.losses, expected.losses, "{what}");
    for (index, (found, expected)) in found.files.iter().zip(&expected.files).enumerate() {
        assert!(found == expected, "{what}: file {index}");
    }
}

/// Trains to the end, then once more from the checkpoint in the middle, with `later` flags.
fn check(what: &str, flags: &[&str], later: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.train(&[&["--checkpoint-every", "3"], flags].concat()).succeeds();
    let expected = left(&sandbox, "run", 6);
    assert_eq!(expected.losses.len(), 6, "{what}");
    let again = ["--checkpoint-every", "3", "--resume", "run/checkpoints/step-3"];
    let shown = sandbox.train(&[&again, flags, later].concat()).succeeds().stdout;
    assert!(shown.contains("resume     after step 3"), "{shown}");
    assert_same(what, &left(&sandbox, "run", 6), &expected);
}

#[test]
fn every_family_goes_on_to_the_bit() {
    for family in ["bert", "gpt", "t5"] {
        for preset in ["baseline", "recommended"] {
            let flags = ["--model", family, "--preset", preset];
            check(&format!("{family} {preset}"), &flags, &[]);
        }
    }
}

#[test]
fn every_preset_goes_on_to_the_bit() {
    // Baseline and recommended are in the test of families.
    let others = PRESETS.iter().map(|preset| preset.name);
    for preset in others.filter(|name| !["baseline", "recommended"].contains(name)) {
        check(preset, &["--preset", preset], &[]);
    }
    // The histories of delayed scaling, which other factors follow from.
    check("delayed", &["--set", "compute.fp8.scaling=delayed", "--preset", "bf16"], &[]);
}

#[test]
fn dropout_accumulation_epochs_and_workers_make_no_difference() {
    let flags = [
        "--set",
        "model.dropout=0.1",
        "--set",
        "train.accumulate=3",
        // A batch of these is more than an epoch of the small corpus.
        "--batch-size",
        "90",
        "--set",
        "train.eval_every=2",
        "--set",
        "train.ema_decay=0.9",
    ];
    let workers = ["--set", "data.prefetch=5", "--set", "data.workers=3"];
    check("dropout", &flags, &workers);
    check("capturable", &["--set", "compute.execution=capturable"], &[]);
}

/// Starts `args`, waits until `path` is there, and a little longer.
fn start_until(
    sandbox: &Sandbox,
    args: &[&str],
    path: &Path,
    longer: Duration,
) -> std::process::Child {
    let mut command = sandbox.command(args);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < Duration::from_secs(120), "no {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(longer);
    child
}

#[test]
fn killed_at_any_moment_a_run_goes_on_to_the_bit() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let flags = ["--max-steps", "60", "--checkpoint-every", "1", "--set", "model.dropout=0.1"];
    sandbox.train(&[&flags[..], &["--out", "whole"]].concat()).succeeds();
    let expected = left(&sandbox, "whole", 60);
    let checkpoints = sandbox.path("run/checkpoints");
    for (round, milliseconds) in [0, 40, 90, 170].into_iter().enumerate() {
        // From the second round on, it goes on; each time from a later step.
        let resume: &[&str] = if round == 0 { &[] } else { &["--resume", "auto"] };
        let args = [&flags[..], resume].concat();
        let longer = Duration::from_millis(milliseconds);
        let mut child = start_until(&sandbox, &train_args(&args), &checkpoints, longer);
        child.kill().unwrap();
        child.wait().unwrap();
        if checkpoints.read_dir().unwrap().flatten().all(|entry| !is_checkpoint(&entry.path())) {
            // Killed before the first was whole: there is nothing to go on from.
            sandbox.train(&["--resume", "auto"]).refuses(&["no checkpoint", "--overwrite"]);
            std::fs::remove_dir_all(sandbox.path("run")).unwrap();
            let mut child =
                start_until(&sandbox, &train_args(&flags), &checkpoints.join("step-2"), longer);
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    sandbox.run(&["train", "--config", "run/config.toml", "--resume", "auto"]).succeeds();
    assert_same("killed", &left(&sandbox, "run", 60), &expected);
}

fn is_checkpoint(path: &Path) -> bool {
    path.join("manifest.json").exists()
        && path.extension().is_none_or(|extension| extension != "partial")
}

#[test]
fn a_signal_saves_the_run() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox
        .train(&["--max-steps", "400", "--checkpoint-every", "400", "--out", "whole"])
        .succeeds();
    let expected = left(&sandbox, "whole", 400);
    let args = train_args(&["--max-steps", "400", "--checkpoint-every", "400"]);
    let metrics = sandbox.path("run/metrics.jsonl");
    let child = start_until(&sandbox, &args, &metrics, Duration::from_millis(150));
    let kill = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let outcome = child.wait_with_output().unwrap();
    assert_eq!(outcome.status.code(), Some(143), "128 and SIGTERM's number");
    sandbox.run(&["train", "--config", "run/config.toml", "--resume", "auto"]).succeeds();
    assert_same("stopped", &left(&sandbox, "run", 400), &expected);
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_taken() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.train(&["--checkpoint-every", "3"]).succeeds();
    let expected = left(&sandbox, "run", 6);
    let weights = sandbox.path("run/checkpoints/step-6/weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    sandbox
        .train(&["--resume", "run/checkpoints/step-6"])
        .refuses(&["step-6/weights.safetensors", "checksum"]);
    let shown = sandbox.train(&["--resume", "auto", "--checkpoint-every", "3"]).succeeds().stdout;
    assert!(
        shown.contains("step-6/weights.safetensors") && shown.contains("after step 3"),
        "{shown}"
    );
    assert_same("damaged", &left(&sandbox, "run", 6), &expected);

    for name in ["step-3", "step-6"] {
        let checkpoint = sandbox.path("run/checkpoints").join(name);
        std::fs::remove_file(checkpoint.join("optimizer.safetensors")).unwrap();
    }
    sandbox.train(&["--resume", "auto"]).refuses(&["run", "optimizer.safetensors"]);
}

#[test]
fn what_can_not_go_on_is_refused_and_nothing_touched() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.train(&["--checkpoint-every", "3"]).succeeds();
    let before = left(&sandbox, "run", 6);
    let newest = "run/checkpoints/step-6";
    let resume = |flags: &[&str]| sandbox.train(&[&["--resume", newest], flags].concat());
    resume(&["--hidden-size", "64"]).refuses(&["model.hidden_size was 32 and is 64"]);
    resume(&["--overwrite"]).refuses(&["--overwrite"]);
    sandbox.train(&["--resume", "auto", "--out", "nowhere"]).refuses(&["nowhere", "no run"]);
    sandbox.train(&["--resume", "corpus.txt"]).refuses(&["corpus.txt", "checkpoints"]);
    sandbox.train(&["--checkpoint-every", "soon", "--out", "x"]).refuses(&["--checkpoint-every"]);

    let corpus = std::fs::read_to_string(sandbox.path("corpus.txt")).unwrap();
    sandbox.write("corpus.txt", format!("{corpus}\n\nSome more text.\n"));
    resume(&[]).refuses(&["was trained on other data"]);
    sandbox.write("corpus.txt", corpus);

    let manifest = sandbox.path("run/checkpoints/step-6/manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("\"version\": 1", "\"version\": 99")).unwrap();
    resume(&[]).refuses(&["step-6", "newer program"]);
    std::fs::write(&manifest, text).unwrap();
    assert!(left(&sandbox, "run", 6) == before, "nothing was touched");

    // More steps may be asked for; the learning rate's schedule is then another.
    let shown = resume(&["--max-steps", "8"]).succeeds().stdout;
    assert!(shown.contains("train.max_steps was 6 and is 8"), "{shown}");
}

#[test]
fn the_newest_and_the_best_checkpoints_stay() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let flags = ["--checkpoint-every", "1", "--keep", "2", "--set", "train.eval_every=1"];
    // A learning rate with which held-out loss goes up and down.
    let rate = ["--preset", "baseline", "--set", "optimizer.adamw.lr=0.3"];
    sandbox.train(&[&flags[..], &rate].concat()).succeeds();
    let text = std::fs::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
    let losses: Vec<f64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| line["held_out"]["loss"].as_f64().unwrap())
        .collect();
    let best = (1..=6).min_by(|a, b| losses[a - 1].total_cmp(&losses[b - 1])).unwrap();
    let mut expected = vec![best, 5, 6];
    expected.sort_unstable();
    expected.dedup();
    let expected: Vec<String> = expected.iter().map(|step| format!("step-{step}")).collect();
    assert_eq!(sandbox.list("run/checkpoints"), expected, "{losses:?}");
}
