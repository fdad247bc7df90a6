//! A report made of a few measurements, and what must hold of it.

use super::super::cell::Workload;
use super::super::definition::{Effort, Size};
use super::super::measurement::{MeasuredStep, RecordedLoad, RecordedRanks, RunSummary};
use super::*;

pub(crate) fn measurement(step_time: f64, losses: &[f64]) -> Measurement {
    let count = losses.len() as u64;
    let summary = format!(
        "{{\"tokens\":{},\"steps\":{count},\"time_to_first_step_s\":1.5,\"final_loss\":{},\
         \"peak_memory_bytes\":1048576,\"best_product_flops\":1e12,\"flops_per_token\":1e9,\
         \"data_wait\":0.01,\"data_fingerprint\":\"abc\"}}",
        100 * count,
        losses[losses.len() - 1]
    );
    let summary: RunSummary = serde_json::from_str(&summary).unwrap();
    let step = |(index, loss): (usize, &f64)| MeasuredStep {
        loss: Some(*loss),
        tokens: 100,
        step_time_s: step_time,
        time_s: 1.0 + step_time * (index + 1) as f64,
    };
    Measurement { steps: losses.iter().enumerate().map(step).collect(), summary }
}

pub(crate) fn size() -> Size {
    toml::from_str(
        "name = \"small\"\ntitle = \"Small <model>\"\nplace = 1\ncorpus = \"c\"\nset = []\n\
         [full]\nsteps = 4\nwarmup_steps = 1\nrounds = 2\ncell_minutes = 1\n\
         loss = [1.0, 9.0]\nloss_tolerance = 0.01\n\
         [on_gpu]\nsteps = 200\nwarmup_steps = 20\nloss = [1.0, 9.0]\nloss_tolerance = 0.01\n",
    )
    .unwrap()
}

fn row(name: &str, group: RowGroup) -> MatrixRow {
    let workload = Workload::Ours { preset: name.to_owned(), set: Vec::new(), processes: 1 };
    MatrixRow {
        name: name.to_owned(),
        title: name.to_owned(),
        group,
        workload,
        same_model: true,
        slower: Some("it is emulated".to_owned()),
    }
}

fn result(step_times: &[f64], losses: &[f64]) -> RowResult {
    let rounds = step_times.iter().map(|time| Some(measurement(*time, losses))).collect();
    RowResult { rounds, error: None }
}

/// A baseline, a row that is faster, one that is slower, and one that failed.
pub(crate) fn report() -> Report {
    let size = size();
    let losses = [8.0, 7.0, 6.0, 5.0];
    let rows = vec![
        row("baseline", RowGroup::Preset),
        row("fast", RowGroup::Preset),
        row("baseline+slow", RowGroup::AddOneIn),
        row("broken", RowGroup::Preset),
    ];
    let effort: Effort = size.full.clone();
    let plan = SizePlan { size: &size, effort, rows };
    let failed = RowResult { rounds: vec![None, None], error: Some("error: no <such> key".into()) };
    let results = [
        result(&[1.0, 1.1], &losses),
        result(&[0.25, 0.275], &losses),
        result(&[2.0, 2.2], &losses),
        failed,
    ];
    let racers = vec![
        ("baseline".to_owned(), 4, Ok(measurement(1.0, &losses))),
        ("fast".to_owned(), 4, Ok(measurement(0.1, &[8.0, 5.0, 4.0, 3.0]))),
    ];
    Report {
        command: "cargo xtask bench-matrix".to_owned(),
        made: "2026-01-02 03:04 UTC".to_owned(),
        device: "cpu".to_owned(),
        machine: MeasuredMachine::of(std::path::Path::new("."), "abc"),
        sizes: vec![SizeReport::of(&plan, &results, racers, 2)],
    }
}

#[test]
fn numbers_follow_from_the_steps() {
    let report = report();
    let [baseline, fast, slow, broken] = &report.sizes[0].rows[..] else { panic!("four rows") };
    assert_eq!(baseline.ratio.unwrap().value, 1.0);
    let ratio = fast.ratio.unwrap();
    assert!((ratio.value - 4.0).abs() < 1e-9 && (ratio.low - 4.0).abs() < 1e-9, "{ratio:?}");
    let rate = fast.tokens_per_s.unwrap();
    assert!((rate.max - 400.0).abs() < 1e-9 && (rate.min - 363.636).abs() < 1e-2, "{rate:?}");
    assert!((fast.speed_of_light.unwrap() - rate.median * 1e9 / 1e12).abs() < 1e-12);
    assert_eq!(fast.faults, Vec::<String>::new());
    assert_eq!(slow.note.as_deref(), Some("slower: it is emulated"));
    assert_eq!(broken.error.as_deref(), Some("error: no <such> key"));
    assert_eq!(broken.tokens_per_s, None);
    assert!(!report.is_valid(), "a row failed");

    let [base, fast] = &report.sizes[0].race[..] else { panic!("two racers") };
    assert_eq!((base.time_to_loss_s, base.share_of_baseline), (Some(5.0), Some(1.0)));
    assert_eq!(fast.time_to_loss_s, Some(1.2));
    assert!((fast.share_of_baseline.unwrap() - 0.24).abs() < 1e-9);
    assert_eq!(fast.final_loss, Some(3.0));
}

#[test]
fn a_wrong_result_is_a_fault() {
    let size = size();
    let rows = vec![row("baseline", RowGroup::Preset), row("other", RowGroup::Preset)];
    let plan = SizePlan { size: &size, effort: size.full.clone(), rows };
    let check = |change: fn(&mut Measurement), expected: &str| {
        let mut other = measurement(1.0, &[8.0, 7.0, 6.0, 5.0]);
        change(&mut other);
        let results = [
            result(&[1.0], &[8.0, 7.0, 6.0, 5.0]),
            RowResult { rounds: vec![Some(other)], error: None },
        ];
        let report = SizeReport::of(&plan, &results, Vec::new(), 2);
        assert_eq!(report.rows[0].faults, Vec::<String>::new());
        let faults = report.rows[1].faults.join("; ");
        assert!(faults.contains(expected), "{faults:?} lacks {expected:?}");
    };
    check(|m| m.summary.final_loss = Some(20.0), "outside of 1 to 9");
    check(|m| m.summary.final_loss = None, "NaN is outside");
    check(|m| m.summary.final_loss = Some(5.2), "not the baseline's, 5.000");
    check(|m| m.summary.tokens = 300, "saw 300 tokens");
    check(|m| m.summary.data_fingerprint = Some("x".into()), "batches are not");
}

#[test]
fn other_work_is_told_for_each_row() {
    let size = size();
    let rows = vec![row("baseline", RowGroup::Preset), row("other", RowGroup::Preset)];
    let plan = SizePlan { size: &size, effort: size.full.clone(), rows };
    let rounds = [0.05, 0.9, 0.3].map(|other_cores| {
        let mut measured = measurement(1.0, &[8.0, 7.0, 6.0, 5.0]);
        let load = RecordedLoad { other_cores, stolen_cores: 0.1 };
        measured.summary.machine_load = Some(load);
        Some(measured)
    });
    let quiet = result(&[1.0; 3], &[8.0, 7.0, 6.0, 5.0]);
    let loaded = RowResult { rounds: rounds.into(), error: None };
    let report = SizeReport::of(&plan, &[quiet, loaded], Vec::new(), 2);
    assert_eq!(report.rows[0].busy, None);
    let said = report.rows[1].busy.as_deref();
    let expected = "the machine was busy in 2 of 3 rounds: up to 1.0 of 2 cores did other work";
    assert_eq!(said, Some(expected));
}

#[test]
fn other_ranks_are_not_other_work() {
    let mut summary = measurement(1.0, &[8.0]).summary;
    summary.machine_load = Some(RecordedLoad { other_cores: 1.0, stolen_cores: 0.25 });
    assert_eq!(summary.missing_cores(), Some(1.25));
    summary.ranks = Some(RecordedRanks { communication: 0.1, largest_peak_memory_bytes: 1 });
    assert_eq!(summary.missing_cores(), Some(0.25));
}

#[test]
fn one_round_gives_no_ratio_a_name() {
    let size = size();
    let rows = vec![row("baseline", RowGroup::Preset), row("slow", RowGroup::Preset)];
    let plan = SizePlan { size: &size, effort: size.full.clone(), rows };
    let note = |times: &[f64], slow: &[f64]| {
        let results = [result(times, &[8.0, 5.0]), result(slow, &[8.0, 5.0])];
        let report = SizeReport::of(&plan, &results, Vec::new(), 2);
        (report.rows[1].note.clone(), super::table::method(&report))
    };
    let (told, method) = note(&[1.0], &[2.0]);
    assert_eq!(told, None);
    assert!(method.contains("One round") && method.contains("chance"), "{method}");
    let (told, method) = note(&[1.0, 1.0], &[2.0, 2.0]);
    assert_eq!(told.as_deref(), Some("slower: it is emulated"));
    assert!(!method.contains("chance"), "{method}");
}

#[test]
fn a_report_is_read_back_from_its_file() {
    let report = report();
    let text = serde_json::to_string(&report).unwrap();
    let read: Report = serde_json::from_str(&text).unwrap();
    assert_eq!((read.command, read.machine), (report.command, report.machine));
    let (read, written) = (&read.sizes[0], &report.sizes[0]);
    assert_eq!(read.rows[3], written.rows[3]);
    let error =
        (read.rows[1].speed_of_light.unwrap() - written.rows[1].speed_of_light.unwrap()).abs();
    assert!(error < 1e-12, "{error}");
}
