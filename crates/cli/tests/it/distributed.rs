//! Runs on several processes, as `launch` starts them: the same as one process, and hard to break.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bert4rs_tensor_core::{Kind, Tensor, safetensors};

use crate::support::{Outcome, Sandbox, train_args};

/// `launch` of a tiny run on so many processes.
pub(crate) fn launch(sandbox: &Sandbox, processes: usize, extra: &[&str]) -> Command {
    let count = processes.to_string();
    let args = [&["launch", "--processes", &count, "--"][..], &train_args(extra)].concat();
    quiet(sandbox.command(&args))
}

/// The program with one thread.
pub(crate) fn quiet(mut command: Command) -> Command {
    command.env("OMP_NUM_THREADS", "1");
    command.env("TORCH_CPP_LOG_LEVEL", "ERROR");
    command
}

pub(crate) fn run(mut command: Command) -> Outcome {
    Outcome::new(command.output().unwrap())
}

pub(crate) fn weights(sandbox: &Sandbox, run: &str) -> BTreeMap<String, Tensor> {
    safetensors::load(&sandbox.path(run).join("model.safetensors")).unwrap()
}

/// The largest distance of a weight, over the norm of its tensor.
pub(crate) fn distance(left: &BTreeMap<String, Tensor>, right: &BTreeMap<String, Tensor>) -> f64 {
    let norm = |x: &Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    assert!(left.keys().eq(right.keys()));
    let pairs = left.values().zip(right.values());
    pairs.map(|(l, r)| norm(&(l - r)) / norm(r).max(1e-12)).fold(0.0, f64::max)
}

/// Metrics without times.
fn losses(sandbox: &Sandbox, run: &str) -> Vec<String> {
    let text = fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        ["step", "loss", "grad_norm", "tokens", "held_out"]
            .map(|key| line[key].to_string())
            .join(" ")
    };
    text.lines().map(line).collect()
}

const NO_BIASES: [&str; 2] = ["--set", "model.biases=none"];
const LARGE_EPS: [&str; 2] = ["--set", "optimizer.adamw.eps=1e-5"];

/// What a run on several processes is compared with.
#[derive(Clone, Copy)]
enum OneProcess {
    /// As many sequences a batch as all processes have.
    LargeBatch,
    /// Their batches one after the other, in the order of ranks.
    Accumulates,
}

/// Trains on `processes` with `accumulate` batches of 2 each, and in one process.
#[track_caller]
fn equals_one_process(
    (family, preset, sharding): (&str, &str, &str),
    processes: usize,
    accumulate: usize,
    one: OneProcess,
) {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let same = ["--model", family, "--preset", preset, "--set", "compute.precision=fp32"];
    // Sums in another order differ by rounding errors, of which AdamW makes whole steps where a
    // gradient is no larger: with a larger `eps` it does not.
    let same = [&same[..], &["--set", "train.eval_every=3"], &LARGE_EPS].concat();
    // A bias of keys has no gradient but rounding errors, of which AdamW makes whole steps.
    let same = if family == "t5" { same } else { [&same[..], &NO_BIASES].concat() };
    let accumulated = |batches: usize| format!("train.accumulate={batches}");
    let (sharding, own) = (format!("optimizer.sharding={sharding}"), accumulated(accumulate));
    let many = ["--batch-size", "2", "--out", "many", "--set", &sharding, "--set", &own];
    let shown = run(launch(&sandbox, processes, &[&same[..], &many].concat())).succeeds().stdout;
    assert!(shown.contains("[0] ") && !shown.contains("[1] "), "rank 0 alone speaks: {shown}");
    let (batch, batches) = match one {
        OneProcess::LargeBatch => (2 * processes, accumulate),
        OneProcess::Accumulates => (2, processes * accumulate),
    };
    let (batch, batches) = (batch.to_string(), accumulated(batches));
    let one = ["--batch-size", &batch, "--out", "one", "--set", &batches];
    run(quiet(sandbox.command(&train_args(&[&same[..], &one].concat())))).succeeds();
    let apart = distance(&weights(&sandbox, "many"), &weights(&sandbox, "one"));
    let what = format!("{family} {preset} {sharding} {processes}x{accumulate}");
    assert!(apart < 1e-6, "{what}: weights off by {apart:.1e}");
    let summary = |run: &str| -> serde_json::Value {
        let text = fs::read_to_string(sandbox.path(run).join("summary.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (many, one) = (summary("many"), summary("one"));
    for exact in ["steps", "tokens", "positions"] {
        assert_eq!(many[exact], one[exact], "{what}: {exact}");
    }
    for close in ["final_loss", "held_out_loss"] {
        let [found, expected] = [&many, &one].map(|summary| summary[close].as_f64().unwrap());
        assert!((found / expected - 1.0).abs() < 1e-5, "{what}: {close} {found} {expected}");
    }
    assert_eq!(many["ranks"]["processes"], processes);
    assert!(many["ranks"]["bytes_per_step"].as_f64().unwrap() > 0.0);
    assert!(one["ranks"].is_null());
}

#[test]
fn adamw_on_ranks_is_one_process_with_the_whole_batch() {
    // Padded rows: ranks have unlike numbers of labels.
    equals_one_process(("bert", "baseline", "none"), 2, 2, OneProcess::LargeBatch);
    equals_one_process(("gpt", "baseline", "states_and_gradients"), 2, 2, OneProcess::LargeBatch);
    equals_one_process(("t5", "baseline", "states"), 2, 1, OneProcess::LargeBatch);
}

// Polar factors magnify what rounding makes of sums in another order, so these are compared with
// sums in the same order.

#[test]
fn muon_on_ranks_is_one_process_with_the_same_batches() {
    equals_one_process(("gpt", "baseline+muon", "none"), 2, 1, OneProcess::Accumulates);
    equals_one_process(("t5", "baseline+muon", "states"), 2, 1, OneProcess::Accumulates);
}

#[test]
fn normuon_on_ranks_is_one_process_with_the_same_batches() {
    let sharded = ("bert", "baseline+normuon", "states_and_gradients");
    equals_one_process(sharded, 4, 1, OneProcess::Accumulates);
    equals_one_process(("gpt", "baseline+normuon", "none"), 2, 1, OneProcess::Accumulates);
}

#[test]
fn runs_repeat_and_go_on_to_the_bit_on_as_many_ranks() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    for sharding in ["none", "states"] {
        let sharding = format!("optimizer.sharding={sharding}");
        let flags = ["--preset", "recommended+normuon", "--set", &sharding, "--set"];
        let flags = [&flags[..], &["model.dropout=0.1", "--checkpoint-every", "3"]].concat();
        for out in ["first", "second"] {
            let flags = [&flags[..], &["--out", out, "--overwrite"]].concat();
            run(launch(&sandbox, 2, &flags)).succeeds();
        }
        let model = || fs::read(sandbox.path("first/model.safetensors")).unwrap();
        let before = (model(), losses(&sandbox, "first"));
        assert_eq!(before.1, losses(&sandbox, "second"), "{sharding}");
        assert!(before.0 == fs::read(sandbox.path("second/model.safetensors")).unwrap());
        let resume = ["--resume", "first/checkpoints/step-3", "--out", "first"];
        run(launch(&sandbox, 2, &[&flags[..], &resume].concat())).succeeds();
        assert_eq!(before.1, losses(&sandbox, "first"), "{sharding}: resumed");
        assert!(before.0 == model(), "{sharding}: resumed");
    }
}

#[test]
fn a_run_goes_on_with_more_and_with_fewer_ranks() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    // AdamW, as the order of sums is another on more ranks.
    let same = ["--preset", "recommended", "--set", "compute.precision=fp32", "--keep", "9"];
    let same = [&same[..], &["--checkpoint-every", "2"], &NO_BIASES].concat();
    let of = |accumulate: &'static str| [&same[..], &["--set", accumulate]].concat();
    let whole = [of("train.accumulate=4"), vec!["--out", "whole"]].concat();
    run(quiet(sandbox.command(&train_args(&whole)))).succeeds();

    let sharded = ["--set", "optimizer.sharding=states", "--max-steps", "6"];
    let from = |step: &'static str| ["--resume", step, "--out", "run"];
    run(launch(&sandbox, 2, &[&of("train.accumulate=2")[..], &sharded].concat())).succeeds();
    let more = [&of("train.accumulate=1")[..], &sharded, &from("run/checkpoints/step-2")].concat();
    run(launch(&sandbox, 4, &more)).succeeds();
    let fewer = [&of("train.accumulate=4")[..], &from("run/checkpoints/step-4")].concat();
    run(quiet(sandbox.command(&train_args(&fewer)))).succeeds();
    let apart = distance(&weights(&sandbox, "run"), &weights(&sandbox, "whole"));
    assert!(apart < 1e-6, "off by {apart:.1e}");
    let other = [&of("train.accumulate=3")[..], &from("run/checkpoints/step-4")].concat();
    run(quiet(sandbox.command(&train_args(&other)))).refuses(&["train.accumulate", "product"]);
}

/// Starts a long run on `processes`, and waits until it takes steps.
fn start_long(sandbox: &Sandbox, processes: usize, extra: &[&str]) -> Child {
    let long = ["--max-steps", "100000", "--set", "train.log_every=1"];
    let mut command = launch(sandbox, processes, &[&long[..], extra].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_lines(&sandbox.path("run/metrics.jsonl"), 2);
    child
}

fn wait_for_lines(path: &Path, lines: usize) {
    let began = Instant::now();
    while fs::read_to_string(path).map_or(0, |text| text.lines().count()) < lines {
        assert!(began.elapsed() < Duration::from_secs(120), "{} does not grow", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process of `rank` that `launcher` started.
fn process_of(launcher: &Child, rank: usize) -> Option<String> {
    let wanted = [format!("BERT4RS_LAUNCHER={}", launcher.id()), format!("RANK={rank}")];
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let variables = fs::read(entry.path().join("environ")).ok()?;
        let variables: Vec<&[u8]> = variables.split(|byte| *byte == 0).collect();
        let has = |text: &String| variables.contains(&text.as_bytes());
        wanted.iter().all(has).then(|| entry.file_name().into_string().unwrap())
    })
}

pub(crate) fn signal(name: &str, process: &str) {
    assert!(Command::new("kill").args([name, process]).status().unwrap().success());
}

#[test]
fn a_killed_rank_ends_all_within_ten_seconds_and_is_named() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let child = start_long(&sandbox, 3, &[]);
    signal("-KILL", &process_of(&child, 1).unwrap());
    let since = Instant::now();
    let outcome = Outcome::new(child.wait_with_output().unwrap());
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(outcome.code, Some(137), "128 and SIGKILL's number: {}", outcome.stderr);
    assert!(outcome.stderr.contains("launch: rank 1 was ended by signal 9"), "{}", outcome.stderr);
    for rank in [0, 2] {
        let named = outcome.stderr.lines().any(|line| {
            // Where the other has ended for the same reason first, both are named.
            let names = ["rank 1 ended or hangs", "ranks 1, 2 ended", "ranks 0, 1 ended"];
            line.starts_with(&format!("[{rank}] ")) && names.iter().any(|name| line.contains(name))
        });
        assert!(named, "{rank}: {}", outcome.stderr);
    }
}

#[test]
fn a_rank_that_hangs_is_named_when_time_is_over() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let child = start_long(&sandbox, 2, &["--set", "distributed.timeout_s=2"]);
    signal("-STOP", &process_of(&child, 1).unwrap());
    let outcome = Outcome::new(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("rank 1 ended or hangs"), "{}", outcome.stderr);
}

#[test]
fn a_signal_saves_the_run_of_all_ranks() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let child = start_long(&sandbox, 2, &["--set", "optimizer.sharding=states"]);
    signal("-TERM", &child.id().to_string());
    let outcome = Outcome::new(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(143), "{}\n{}", outcome.stdout, outcome.stderr);
    assert_eq!(sandbox.list("run/checkpoints").len(), 1, "{:?}", sandbox.list("run/checkpoints"));
    let last = losses(&sandbox, "run").len() + 1;
    let last = ["--max-steps", &last.to_string(), "--resume", "auto"].map(str::to_owned);
    let last: Vec<&str> = last.iter().map(String::as_str).collect();
    run(launch(&sandbox, 2, &[&last[..], &["--set", "optimizer.sharding=states"]].concat()))
        .succeeds();
}

/// Starts two ranks without a launcher, as Slurm does, and waits for both.
fn by_hand(sandbox: &Sandbox, flags: [&[&str]; 2]) -> [Outcome; 2] {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |rank: usize| {
        let out = format!("run{rank}");
        let mut command =
            quiet(sandbox.command(&train_args(&[flags[rank], &["--out", &out]].concat())));
        let variables = [("RANK", rank), ("WORLD_SIZE", 2), ("MASTER_PORT", port.into())];
        command.envs(variables.map(|(name, value)| (name, value.to_string())));
        command.env("MASTER_ADDR", "127.0.0.1").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    [start(0), start(1)].map(|child| Outcome::new(child.wait_with_output().unwrap()))
}

#[test]
fn ranks_with_other_settings_or_data_are_refused_before_they_exchange_anything() {
    let sandbox = Sandbox::new();
    let corpus = sandbox.corpus();
    let text = fs::read_to_string(corpus).unwrap();
    for outcome in by_hand(&sandbox, [&["--lr", "0.001"], &["--lr", "0.002"]]) {
        outcome.refuses(&["differ in optimizer.adamw.lr", "0.001", "0.002", "rank 1"]);
    }
    // The same file by name, with other text: as on machines with disks of their own.
    sandbox.write("other.txt", format!("{text}\n\nMore.\n"));
    let flags = ["--set", "data.workers=1"];
    let tokens = |name: &str| sandbox.path(name).display().to_string();
    assert!(Path::new(&tokens("other.txt")).exists());
    let [first, second] = by_hand(&sandbox, [&flags, &[&flags[..], &["--seed", "2"]].concat()]);
    first.refuses(&["differ in seed"]);
    second.refuses(&["differ in seed"]);
}

#[test]
fn what_one_process_does_is_refused_to_several() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let refused = |flags: &[&str], parts: &[&str]| {
        let outcome = run(launch(&sandbox, 2, flags));
        assert_eq!(outcome.code, Some(2), "{}\n{}", outcome.stdout, outcome.stderr);
        for part in parts {
            assert!(outcome.stderr.contains(part), "no {part:?} in: {}", outcome.stderr);
        }
    };
    refused(&["--dry-run"], &["--dry-run", "one process"]);
    refused(&["--set", "compute.execution=capturable"], &["compute.execution", "eager"]);
    refused(&["--set", "compute.fp8.scaling=delayed"], &["compute.fp8.scaling", "tensor or row"]);
    refused(&["--set", "distributed.timeout_s=0"], &["distributed.timeout_s"]);
    sandbox.run(&["launch", "--processes", "0", "--", "train"]).refuses(&["--processes"]);
}

#[test]
fn doctor_foretells_what_a_rank_holds() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let flags = ["--preset", "recommended+normuon", "--set", "optimizer.sharding=states"];
    run(launch(&sandbox, 2, &flags)).succeeds();
    let text = fs::read_to_string(sandbox.path("run/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    let measured = summary["parameter_memory_bytes"].as_f64().unwrap();
    let doctor = ["doctor", "--memory", "--processes", "2", "--config", "run/config.toml"];
    let told = sandbox.run(&doctor).succeeds().stdout;
    let line = told.lines().find(|line| line.starts_with("together")).unwrap();
    let told = line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * f64::from(1 << 20);
    // It is printed in tenths of a MiB, of which this model has few.
    assert!((told - measured).abs() < 0.06 * f64::from(1 << 20), "{told} {measured}");
    sandbox.run(&["doctor", "--memory", "--processes", "0"]).refuses(&["--processes"]);
}

#[test]
fn doctor_measures_the_network_between_processes() {
    let sandbox = Sandbox::new();
    let args = ["launch", "--processes", "2", "--", "doctor", "--network"];
    let told = run(quiet(sandbox.command(&args))).succeeds().stdout;
    for part in ["latency", "GB/s", "64 ranks"] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    sandbox.run(&["doctor", "--network"]).refuses(&["--network", "launch"]);
}

/// The step of the run's newest checkpoint, or 0 without one.
fn newest_checkpoint(sandbox: &Sandbox) -> u64 {
    let names = sandbox.list("run/checkpoints").into_iter();
    names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).max().unwrap_or(0)
}

/// Waits until the run has a checkpoint of a later step.
fn wait_for_checkpoint_after(sandbox: &Sandbox, step: u64) {
    let began = Instant::now();
    while newest_checkpoint(sandbox) <= step {
        assert!(began.elapsed() < Duration::from_secs(300), "no checkpoint after step {step}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "minutes: 20 kills at random moments"]
fn killed_at_random_a_run_goes_on_to_the_bits_of_an_unbroken_one() {
    let sandbox = Sandbox::new();
    sandbox.corpus();
    let flags = ["--max-steps", "2500", "--checkpoint-every", "5", "--set", "model.dropout=0.1"];
    let flags = [&flags[..], &["--set", "optimizer.sharding=states", "--preset"]].concat();
    let flags = [&flags[..], &["recommended+normuon", "--set", "train.log_every=1"]].concat();
    run(launch(&sandbox, 2, &[&flags[..], &["--out", "whole"]].concat())).succeeds();
    let args = train_args(&[&flags[..], &["--resume", "auto"]].concat());
    let args = [&["launch", "--processes", "2", "--max-restarts", "20", "--"][..], &args].concat();
    let mut command = quiet(sandbox.command(&args));
    let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut random = u64::from(std::process::id());
    let mut step = 0;
    for kill in 0..20 {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (rank, wait) = ((random >> 33) as usize % 2, (random >> 40) % 500);
        // Each life trains for a while: a kill that strikes its start finds nothing to lose.
        wait_for_checkpoint_after(&sandbox, step);
        std::thread::sleep(Duration::from_millis(wait));
        let [process, other] = [rank, 1 - rank].map(|rank| process_of(&child, rank).unwrap());
        println!("kill {kill}: rank {rank}, {wait} ms after a checkpoint past step {step}");
        signal("-KILL", &process);
        let gone = Instant::now();
        while Path::new("/proc").join(&other).exists() {
            assert!(gone.elapsed() < Duration::from_secs(10), "the other did not end in time");
            std::thread::sleep(Duration::from_millis(20));
        }
        // What this life still saved after the kill was chosen is no sign of the next.
        step = newest_checkpoint(&sandbox);
    }
    let outcome = Outcome::new(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(0));
    assert_eq!(losses(&sandbox, "run"), losses(&sandbox, "whole"));
    let model = |run: &str| fs::read(sandbox.path(run).join("model.safetensors")).unwrap();
    assert!(model("run") == model("whole"));
}
