//! What `bert4rs train` tells of a run: before it, and in which form.

use bert4rs_train::metrics::StepRecord;
use bert4rs_train::tensorboard::read_scalars;
use serde_json::Value;

use crate::support::Sandbox;

#[test]
fn a_dry_run_foretells_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let shown = sandbox.train(&["--dry-run", "--max-steps", "1000"]).succeeds().stdout;
    for part in
        ["steps      1000, ", "passes", "tokens     ", "time       about", "memory     about"]
    {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    assert_eq!(sandbox.list("run"), [""; 0]);
    sandbox.train(&["--dry-run", "--num-heads", "5"]).refuses(&["model.num_heads"]);
}

#[test]
fn epochs_are_passes_over_the_corpus() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    // The sandbox's own --max-steps does not go with --epochs.
    let shape = ["--batch-size", "8", "--seq-len", "64", "--vocab-size", "400"];
    let model = ["--hidden-size", "32", "--num-layers", "1", "--num-heads", "2"];
    let train = |more: &[&str]| {
        let args = ["train", "--corpus", "corpus.txt", "--overwrite", "--out", "run"];
        sandbox.run(&[&args, &shape[..], &model, more].concat())
    };
    let steps = || {
        let text = std::fs::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
        text.lines().count()
    };
    train(&["--epochs", "1"]).succeeds();
    let one = steps();
    train(&["--epochs", "2", "--set", "train.accumulate=2"]).succeeds();
    assert_eq!(steps(), one, "half as many steps an epoch");
    train(&["--epochs", "1", "--max-steps", "3"]).refuses(&["--epochs", "--max-steps"]);
    // Steps that are asked for count, whatever a file says.
    sandbox.write("epochs.toml", "train.epochs = 5\n");
    train(&["--config", "epochs.toml", "--max-steps", "2"]).succeeds();
    assert_eq!(steps(), 2);
}

#[test]
fn a_learning_rate_is_found() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let shown = sandbox.train(&["--find-lr", "--max-steps", "60"]).succeeds().stdout;
    assert!(shown.contains("learning rate  smoothed loss"), "{shown}");
    let rate = shown.rsplit("try --lr ").next().unwrap().trim();
    let rate: f64 = rate.parse().unwrap_or_else(|_| panic!("no rate in {shown}"));
    assert!((1e-5..1.0).contains(&rate), "{rate}");
    assert_eq!(sandbox.list("run"), [""; 0]);
}

#[test]
fn lines_are_objects_or_none_where_that_is_asked_for() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let shown = sandbox.train(&["--log-format", "json"]).succeeds().stdout;
    let objects: Vec<Value> =
        shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps = objects.iter().filter(|object| object["step"].is_object());
    let losses: Vec<f64> = steps.map(|object| object["step"]["loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 4, "step 1 and every second: {shown}");
    assert!(objects.iter().any(|object| object["message"].is_string()));
    assert!(objects.last().unwrap()["summary"]["final_loss"].is_f64());

    let quiet = sandbox.train(&["--quiet", "--out", "quiet"]).succeeds();
    assert_eq!((&*quiet.stdout, &*quiet.stderr), ("", ""));
    assert!(sandbox.path("quiet/summary.json").exists());
}

#[test]
fn tensorboard_reads_what_was_measured() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    sandbox.train(&["--tensorboard", "--preset", "recommended+muon"]).succeeds();
    let events = sandbox.list("run/tensorboard");
    let path = sandbox.path("run/tensorboard").join(&events[0]);
    let text = std::fs::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
    let records: Vec<StepRecord> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected: Vec<(u64, f32)> =
        records.iter().map(|record| (record.step, record.loss as f32)).collect();
    let curve = |tag: &str| -> Vec<(u64, f32)> {
        let all = read_scalars(&path).unwrap().into_iter();
        all.filter(|(_, name, _)| name == tag).map(|(step, _, value)| (step, value)).collect()
    };
    assert_eq!(curve("loss/train"), expected);
    assert_eq!(curve("learning_rate/muon").len(), 6);

    // TensorBoard itself, where this machine has it.
    let script = "import sys\n\
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n\
        events = EventAccumulator(sys.argv[1]).Reload()\n\
        print([(e.step, e.value) for e in events.Scalars('loss/train')])";
    let python = std::process::Command::new("python3").args(["-c", script]).arg(&path).output();
    if let Ok(output) = python
        && output.status.success()
    {
        let theirs = String::from_utf8(output.stdout).unwrap();
        assert_eq!(theirs.matches('(').count(), 6, "{theirs}");
        let first = format!("(1, {:.4}", records[0].loss);
        assert!(theirs.contains(&first[..first.len() - 1]), "{first} in {theirs}");
    }
}
