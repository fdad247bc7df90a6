//! What runs left, for people: a list, and a page of curves.
//!
//! | module | holds |
//! | --- | --- |
//! | [`recorded`] | a run's folder, read back |
//! | here | the page |

pub mod recorded;

use std::collections::BTreeSet;

use bert4rs_charts::chart::{MOST_LINES, escape, line, lines};
use bert4rs_charts::page;

pub use recorded::{RecordedMeasurement, RecordedRun, RecordedStep, find_runs};

use crate::config::leaves;
use crate::error::in_units;

/// Points of a curve: each is the mean of as many steps as that takes.
const MOST_POINTS: usize = 150;

/// A curve of the page.
struct Curve {
    title: &'static str,
    unit: &'static str,
    value: fn(&RecordedStep) -> f64,
}

const CURVES: [Curve; 7] = [
    Curve { title: "Loss", unit: "nats", value: |step| step.loss },
    Curve { title: "Held-out loss", unit: "nats", value: |step| step.held_out.loss },
    Curve {
        title: "Held-out accuracy",
        unit: "% of the labels",
        value: |step| 100.0 * step.held_out.accuracy,
    },
    Curve { title: "Tokens a second", unit: "tokens/s", value: |step| step.tokens_per_s },
    Curve { title: "Learning rate", unit: "of AdamW", value: |step| step.lr },
    Curve { title: "Gradient norm", unit: "before clipping", value: |step| step.grad_norm },
    Curve {
        title: "Memory",
        unit: "MiB of the process",
        value: |step| step.resident_bytes / f64::from(1 << 20),
    },
];

/// A page that needs nothing else: the runs' numbers, curves, and what their configurations differ
/// in.
pub fn report(runs: &[RecordedRun]) -> String {
    let names: Vec<String> = runs.iter().map(RecordedRun::name).collect();
    let title = format!("bert4rs: {}", names.join(", "));
    let mut body = format!("<h1>{}</h1>", escape(&title));
    body += &numbers(runs);
    if runs.len() > MOST_LINES {
        body += &format!("<p class=\"soft\">Curves are those of the first {MOST_LINES} runs.</p>");
    }
    for curve in CURVES {
        body += &chart(runs, &curve);
    }
    body += "<h2>Loss against time</h2>";
    let over_time = |run: &RecordedRun| points(run, |step| step.time_s, |step| step.loss);
    body += &plot(runs, "Loss against time", ["seconds", "nats"], over_time);
    body += &differences(runs);
    page::page(&title, &body)
}

fn chart(runs: &[RecordedRun], Curve { title, unit, value }: &Curve) -> String {
    let of_run = |run: &RecordedRun| points(run, |step| step.step as f64, value);
    let svg = plot(runs, title, ["step", unit], of_run);
    if svg.is_empty() { svg } else { format!("<h2>{title}</h2>{svg}") }
}

fn plot(
    runs: &[RecordedRun],
    title: &str,
    [x, y]: [&str; 2],
    points: impl Fn(&RecordedRun) -> Vec<[f64; 2]>,
) -> String {
    let all = runs.iter().take(MOST_LINES).enumerate();
    let all = all.map(|(index, run)| line(index + 1, &run.name(), &points(run)));
    lines(title, x, y, &all.filter(|line| !line.points.is_empty()).collect::<Vec<_>>())
}

/// The curve of a run: means of neighbouring steps, without those that have no number.
fn points(
    run: &RecordedRun,
    x: impl Fn(&RecordedStep) -> f64,
    y: impl Fn(&RecordedStep) -> f64,
) -> Vec<[f64; 2]> {
    let all: Vec<[f64; 2]> = run.steps.iter().map(|step| [x(step), y(step)]).collect();
    let finite: Vec<[f64; 2]> =
        all.into_iter().filter(|point| point.iter().all(|value| value.is_finite())).collect();
    let together = finite.len().div_ceil(MOST_POINTS).max(1);
    let mean = |steps: &[[f64; 2]], axis: usize| {
        steps.iter().map(|point| point[axis]).sum::<f64>() / steps.len() as f64
    };
    finite.chunks(together).map(|steps| [mean(steps, 0), mean(steps, 1)]).collect()
}

/// A row a run.
fn numbers(runs: &[RecordedRun]) -> String {
    let head = ["run", "status", "steps", "loss", "held-out", "tokens/s", "time", "peak memory"];
    let rows = runs.iter().map(|run| {
        let number = |key, decimals: usize| {
            run.number(key).map_or("–".into(), |value| format!("{value:.decimals$}"))
        };
        let memory = run.number("peak_memory_bytes");
        let time = run.number("total_time_s").or(run.steps.last().map(|step| step.time_s));
        [
            run.name(),
            run.status_word().to_owned(),
            run.steps.last().map_or(0, |step| step.step).to_string(),
            number("final_loss", 4),
            number("held_out_loss", 4),
            number("tokens_per_s", 0),
            time.map_or("–".into(), |seconds| format!("{seconds:.0} s")),
            memory.map_or("–".into(), |bytes| in_units(bytes as u64)),
        ]
    });
    let mut html = page::table(&head.map(str::to_owned), rows);
    for run in runs {
        if let Some(reason) = run.state.ended.as_ref().and_then(|ended| ended.reason.as_ref()) {
            let (name, reason) = (escape(&run.name()), escape(reason));
            html += &format!("<p class=\"bad\">{name}: {reason}</p>");
        }
    }
    html
}

/// The keys in which the runs differ; of a single run, all.
fn differences(runs: &[RecordedRun]) -> String {
    let values: Vec<Vec<(String, String)>> = runs
        .iter()
        .map(|run| leaves(&run.config).into_iter().map(|(key, v)| (key, v.to_string())).collect())
        .collect();
    let keys: BTreeSet<&String> = values.iter().flatten().map(|(key, _)| key).collect();
    let value = |run: usize, key: &String| {
        let found = values[run].iter().find(|(known, _)| known == key);
        found.map_or("none", |(_, value)| value)
    };
    let differs = |key: &&&String| (1..runs.len()).any(|run| value(run, key) != value(0, key));
    let shown: Vec<&&String> = match runs.len() {
        1 => keys.iter().collect(),
        _ => keys.iter().filter(differs).collect(),
    };
    let title = if runs.len() == 1 { "Configuration" } else { "Differences of configuration" };
    if shown.is_empty() {
        return format!("<h2>{title}</h2><p>There are none.</p>");
    }
    let cell = |tag: &str, text: &str| format!("<{tag}>{}</{tag}>", escape(text));
    let head: String = runs.iter().map(|run| cell("th", &run.name())).collect();
    let rows: String = shown
        .into_iter()
        .map(|key| {
            let cells: String = (0..runs.len()).map(|run| cell("td", value(run, key))).collect();
            format!("<tr>{}{cells}</tr>", cell("td", key))
        })
        .collect();
    format!(
        "<h2>{title}</h2><div class=\"scroll\"><table>\
         <tr><th>key</th>{head}</tr>{rows}</table></div>"
    )
}
