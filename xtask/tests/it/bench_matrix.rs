//! `cargo xtask bench-matrix`, run as a user runs it, with a program that only claims to train.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::commands::{Place, text};

const ROWS: &str = r#"
baseline = "baseline"
recommended = "recommended"
[[preset]]
name = "baseline"
same_model = true
[[preset]]
name = "recommended"
same_model = true
[[preset]]
name = "broken"
same_model = true
[[switch]]
name = "fused"
on = ["fused=1"]
off = ["fused=0"]
"#;

const SIZE: &str = r#"
name = "small"
title = "Small"
place = 1
corpus = "movie-reviews"
set = ["model.vocab_size=10"]
[quick]
steps = 4
warmup_steps = 1
rounds = 2
limit_minutes = 20
cell_minutes = 1
loss = [4.0, 9.0]
loss_tolerance = 0.01
[full]
steps = 4
warmup_steps = 1
rounds = 1
cell_minutes = 1
loss = [4.0, 9.0]
loss_tolerance = 0.01
[on_gpu]
steps = 200
warmup_steps = 20
loss = [4.0, 9.0]
loss_tolerance = 0.01
[race]
minutes = 10
steps = 4
presets = ["recommended"]
"#;

/// Claims that `recommended` is four times faster, and fails as `broken`. It writes down how it
/// was called.
const PROGRAM: &str = r#"
echo "$@" >> "$(dirname "$0")/calls"
while [ $# -gt 0 ]; do
  case "$1" in
    --preset) preset=$2 ;;
    --out) out=$2 ;;
    train.max_steps=*) steps=${1#*=} ;;
  esac
  shift
done
if [ "$preset" = broken ]; then echo "error: model.qk_norm: cannot be" >&2; exit 2; fi
time=0.4
[ "$preset" = recommended ] && time=0.1
mkdir -p "$out"
echo weights > "$out/model.safetensors"
for step in $(seq "$steps"); do
  echo "{\"loss\":$((9 - step)).5,\"tokens\":100,\"step_time_s\":$time,\"time_s\":$step}"
done > "$out/metrics.jsonl"
printf '{"tokens":%s,"steps":%s,"time_to_first_step_s":1.0,"final_loss":5.5,
  "peak_memory_bytes":1048576,"data_wait":0.25,"data_fingerprint":"f"}' \
  $((steps * 100)) "$steps" > "$out/summary.json"
"#;

/// A checkout whose cargo builds the program above.
fn place() -> Place {
    let place = Place::new();
    place.libtorch("checkout/.libtorch/libtorch", "2.11.0");
    let matrix = place.path("checkout/benches/matrix");
    fs::create_dir_all(&matrix).unwrap();
    fs::write(matrix.join("rows.toml"), ROWS).unwrap();
    fs::write(matrix.join("small.toml"), SIZE).unwrap();
    fs::write(place.path("corpus.txt"), "Words.\n").unwrap();
    place.program("bert4rs", PROGRAM);
    let message = format!(
        "{{\"package_id\":\"path+file:///x#bert4rs-cli@0.1.0\",\
         \"target\":{{\"name\":\"bert4rs\",\"kind\":[\"bin\"]}},\
         \"profile\":{{\"test\":false}},\"executable\":\"{}\"}}",
        place.path("programs/bert4rs").display()
    );
    place.program("cargo", &format!("echo '{message}'"));
    place
}

fn matrix(place: &Place, args: &[&str]) -> Output {
    let mut command = bench(place, args);
    command.output().unwrap()
}

fn bench(place: &Place, args: &[&str]) -> Command {
    let corpus = place.path("corpus.txt");
    let mut command = place.xtask(&["bench-matrix", "--device", "cpu", "--corpus"]);
    command.arg(corpus).args(args);
    command
}

/// The processes that trained since the last look, one a line.
fn calls(place: &Place) -> Vec<String> {
    let path = place.path("programs/calls");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(&path);
    text.lines().map(str::to_owned).collect()
}

fn report(folder: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(folder.join("report.json")).unwrap()).unwrap()
}

#[test]
fn a_failing_cell_is_reported_and_the_rest_go_on() {
    let place = place();
    let output = matrix(&place, &["--quick"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "recommended",
        "4.00",
        "broken: failed: error: model.qk_norm: cannot be",
        "baseline + fused",
        "recommended − fused",
    ] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
    let folder = place.path("checkout/target/bench-matrix/quick");
    for name in ["report.html", "report.md", "report.json"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let report = report(&folder);
    let rows = report["sizes"][0]["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let expected = ["baseline", "recommended", "broken", "baseline+fused", "recommended-fused"];
    assert_eq!(names, expected);
    // Quotients, good but for their last bits.
    let near = |value: &serde_json::Value, expected: f64| {
        assert!((value.as_f64().unwrap() / expected - 1.0).abs() < 1e-12, "{value}");
    };
    near(&rows[1]["ratio"]["value"], 4.0);
    near(&rows[1]["tokens_per_s"]["median"], 1000.0);
    assert_eq!(rows[1]["data_wait"], 0.25);
    assert!(rows[2]["ratio"].is_null());
    assert!(!folder.join("small/baseline/round-1/run/model.safetensors").exists());

    // One process to prepare, then rounds over all rows; what failed is not tried again.
    let calls = calls(&place);
    assert_eq!(calls.len(), 1 + 5 + 4, "{calls:#?}");
    assert!(calls[0].contains("train.max_steps=1 "), "{}", calls[0]);
    assert!(calls[4].contains("--preset baseline") && calls[4].contains("--set fused=1"));
    assert!(calls[5].contains("--preset recommended") && calls[5].contains("--set fused=0"));
}

#[test]
fn an_interrupted_matrix_goes_on_where_it_was() {
    let place = place();
    let rows = ["--quick", "--presets", "recommended"];
    assert!(matrix(&place, &rows).status.success());
    assert_eq!(calls(&place).len(), 1 + 2 * 2);
    assert!(matrix(&place, &rows).status.success());
    assert_eq!(calls(&place).len(), 0, "all of it was measured");

    // What an interruption leaves: a round without its measurement.
    let folder = place.path("checkout/target/bench-matrix/quick");
    fs::remove_file(folder.join("small/recommended/round-2/measurement.json")).unwrap();
    assert!(matrix(&place, &rows).status.success());
    assert_eq!(calls(&place).len(), 1);

    // Another program measures everything again.
    place.program("bert4rs", &format!("{PROGRAM}\n# faster"));
    assert!(matrix(&place, &rows).status.success());
    assert_eq!(calls(&place).len(), 1 + 2 * 2);
}

#[test]
fn the_full_mode_races_to_the_baseline_s_loss() {
    let place = place();
    let output = matrix(&place, &["--presets", "recommended", "--out", "results"]);
    assert!(output.status.success(), "{}", text(&output));
    let report = report(&place.path("checkout/results"));
    let race = report["sizes"][0]["race"].as_array().unwrap();
    assert_eq!(race.len(), 2);
    assert_eq!(race[1]["time_to_loss_s"], 4.0);
    let shown = text(&output);
    assert!(shown.contains("recommended: loss 5.500 after 4 s"), "{shown}");
}

#[test]
fn tables_are_spliced_into_a_file_with_markers() {
    let place = place();
    let readme = place.path("readme.md");
    fs::write(&readme, "Before.\n<!-- bench-matrix -->\n<!-- /bench-matrix -->\nAfter.\n").unwrap();
    let path = readme.to_str().unwrap();
    let args = ["--quick", "--presets", "recommended", "--splice", path];
    let output = matrix(&place, &args);
    assert!(output.status.success(), "{}", text(&output));
    let spliced = fs::read_to_string(&readme).unwrap();
    assert!(spliced.contains("| recommended | 4.00 | 4.00–4.00 | 1,000 |"), "{spliced}");
    assert!(spliced.contains("`cargo xtask bench-matrix --quick --presets recommended"));
    assert!(spliced.starts_with("Before.\n") && spliced.ends_with("\nAfter.\n"), "{spliced}");
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_runs() {
    let place = place();
    fs::write(place.path("plain.md"), "No markers.\n").unwrap();
    fs::create_dir_all(place.path("taken")).unwrap();
    fs::write(place.path("taken/thesis.txt"), "text").unwrap();
    let (plain, taken) = (place.path("plain.md"), place.path("taken"));
    for (args, said) in [
        (&["--presets", "fast"][..], &["--presets", "`fast`", "recommended-fused"][..]),
        (&["--models", "huge"], &["--models", "`huge`", "small"]),
        (&["--rounds", "0"], &["--rounds"]),
        (&["--device", "tpu"], &["--device", "tpu"]),
        (&["--splice", plain.to_str().unwrap()], &["plain.md", "<!-- bench-matrix -->"]),
        (&["--out", taken.to_str().unwrap()], &["taken", "--out"]),
    ] {
        let output = match args[0] {
            "--device" => place.xtask(&["bench-matrix", "--device", "tpu"]).output().unwrap(),
            _ => matrix(&place, args),
        };
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {shown}");
        for part in said {
            assert!(shown.contains(part), "{args:?}: {part:?} is missing in {shown}");
        }
    }
    assert_eq!(calls(&place).len(), 0);
    fs::write(place.path("checkout/benches/matrix/small.toml"), "name = 1").unwrap();
    let output = matrix(&place, &["--quick"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("small.toml"), "{}", text(&output));
}
