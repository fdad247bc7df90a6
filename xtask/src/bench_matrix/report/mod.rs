//! What a matrix found: numbers first, then each form that they are shown in.

pub(super) mod html;
pub(super) mod markdown;
pub(super) mod table;
#[cfg(test)]
pub(super) mod tests;

use serde::{Deserialize, Serialize};

use super::cell::{MatrixRow, RowGroup, SizePlan};
use super::machine::MeasuredMachine;
use super::measurement::Measurement;
use super::rounds::RowResult;
use super::statistics::{
    ConfidenceInterval, Round, Spread, median, speed_ratio, tokens_per_s, trailing_means,
};

/// `report.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The command that makes this report.
    pub(crate) command: String,
    pub(crate) made: String,
    pub(crate) device: String,
    pub(crate) machine: MeasuredMachine,
    pub(crate) sizes: Vec<SizeReport>,
}

/// A model's rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SizeReport {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) steps: u64,
    pub(crate) warmup_steps: u64,
    pub(crate) rounds: u32,
    /// Fewer where the time limit was near.
    pub(crate) rounds_done: u32,
    /// FLOP/s of the machine's best matrix product, which is 100% of the speed of light.
    pub(crate) best_product_flops: Option<f64>,
    pub(crate) rows: Vec<RowReport>,
    pub(crate) race: Vec<RaceReport>,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RowReport {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) group: RowGroup,
    /// Why it has no numbers, or not all.
    pub(crate) error: Option<String>,
    /// Why its numbers do not count.
    pub(crate) faults: Vec<String>,
    /// What a reader must know.
    pub(crate) note: Option<String>,
    /// Other work of the machine during its rounds, if there was so much that times are worth less.
    pub(crate) busy: Option<String>,
    /// After the warm-up, one value a round.
    pub(crate) tokens_per_s: Option<Spread>,
    /// Over the baseline's.
    pub(crate) ratio: Option<ConfidenceInterval>,
    /// The most memory that the process held.
    pub(crate) peak_memory_bytes: Option<f64>,
    /// Useful FLOP/s over those of the machine's best matrix product.
    pub(crate) speed_of_light: Option<f64>,
    pub(crate) data_wait: Option<f64>,
    /// From the start of the process to the end of the first step, in the slowest round: what was
    /// compiled there may be kept for the next.
    pub(crate) time_to_first_step_s: Option<f64>,
    /// Time of the warm-up's steps, in the slowest round.
    pub(crate) warmup_s: Option<f64>,
    /// Loss at the end of the steps, which are equally many for all rows.
    pub(crate) final_loss: Option<f64>,
    pub(crate) precision: String,
    pub(crate) attention: String,
    pub(crate) versions: Option<String>,
    /// Seconds since the process began, and the loss of the step that ended then.
    pub(crate) curve: Vec<[f64; 2]>,
}

/// Training to the baseline's final loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RaceReport {
    pub(crate) name: String,
    pub(crate) steps: u64,
    pub(crate) error: Option<String>,
    /// The loss to reach: the baseline's at its end.
    pub(crate) target_loss: Option<f64>,
    /// Since the process began; `None` if it was not reached.
    pub(crate) time_to_loss_s: Option<f64>,
    /// That time over the baseline's.
    pub(crate) share_of_baseline: Option<f64>,
    pub(crate) final_loss: Option<f64>,
    /// As a row's.
    pub(crate) busy: Option<String>,
    /// Seconds since the process began, and the mean loss of the last steps.
    pub(crate) curve: Vec<[f64; 2]>,
}

/// A run of the race: its name, its steps, and what became of it.
pub(crate) type Racer = (String, u64, Result<Measurement, String>);

impl Report {
    /// Whether some times are worth less, as the machine did something else meanwhile.
    pub(crate) fn was_busy(&self) -> bool {
        let was = |size: &SizeReport| {
            let rows = size.rows.iter().any(|row| row.busy.is_some());
            rows || size.race.iter().any(|racer| racer.busy.is_some())
        };
        self.sizes.iter().any(was)
    }

    /// Whether every row has valid numbers.
    pub(crate) fn is_valid(&self) -> bool {
        let rows = self.sizes.iter().flat_map(|size| &size.rows);
        let racers = self.sizes.iter().flat_map(|size| &size.race);
        rows.into_iter().all(|row| row.error.is_none() && row.faults.is_empty())
            && racers.into_iter().all(|racer| racer.error.is_none())
    }
}

impl SizeReport {
    /// The numbers of a size on a machine with so many cores. The first row is the baseline.
    pub(crate) fn of(
        plan: &SizePlan<'_>,
        results: &[RowResult],
        racers: Vec<Racer>,
        cores: usize,
    ) -> Self {
        let effort = &plan.effort;
        let measured = |result: &RowResult| -> Vec<Measurement> {
            result.rounds.iter().flatten().cloned().collect()
        };
        let all: Vec<Measurement> = results.iter().flat_map(measured).collect();
        let best: Vec<f64> = all.iter().filter_map(|m| m.summary.best_product_flops).collect();
        let best = median(&best);
        let rounds_done = results.first().map_or(0, |result| result.rounds.len() as u32);
        let rows = match results.first() {
            None => Vec::new(),
            Some(baseline) => {
                let rows = plan.rows.iter().zip(results);
                rows.map(|(row, result)| row_report(plan, row, result, baseline, (best, cores)))
                    .collect()
            }
        };
        Self {
            name: plan.size.name.clone(),
            title: plan.size.title.clone(),
            steps: effort.steps,
            warmup_steps: effort.warmup_steps,
            rounds: effort.rounds,
            rounds_done,
            best_product_flops: best,
            rows,
            race: race_reports(racers, cores),
        }
    }

    /// The rows of a group.
    pub(crate) fn group(&self, group: RowGroup) -> impl Iterator<Item = &RowReport> {
        self.rows.iter().filter(move |row| row.group == group)
    }
}

fn row_report(
    plan: &SizePlan<'_>,
    row: &MatrixRow,
    result: &RowResult,
    baseline: &RowResult,
    (best_product_flops, cores): (Option<f64>, usize),
) -> RowReport {
    let warmup = plan.effort.warmup_steps;
    let measured: Vec<&Measurement> = result.rounds.iter().flatten().collect();
    let each = |value: fn(&Measurement) -> Option<f64>| -> Vec<f64> {
        measured.iter().filter_map(|m| value(m)).collect()
    };
    let rates: Vec<f64> = measured.iter().map(|m| tokens_per_s(&m.steady(warmup))).collect();
    let warmups: Vec<f64> = measured.iter().map(|m| m.warmup_s(warmup)).collect();
    let flops = each(|m| m.summary.flops_per_token);
    let theirs = baseline.rounds.iter().flatten().find_map(|m| m.summary.flops_per_token);
    let flops_per_token = median(&flops).or(theirs);
    let (ours, base) = paired(result, baseline, warmup);
    let is_baseline = plan.rows.first().is_some_and(|first| first.name == row.name);
    let one = ConfidenceInterval { value: 1.0, low: 1.0, high: 1.0 };
    let ratio = if is_baseline { Some(one) } else { speed_ratio(&ours, &base) };
    let first = measured.first();
    let name = |of: fn(&Measurement) -> &String| first.map_or(String::new(), |m| of(m).clone());
    let slowest = |values: Vec<f64>| Spread::of(&values).map(|spread| spread.max);
    RowReport {
        name: row.name.clone(),
        title: row.title.clone(),
        group: row.group,
        error: result.error.clone(),
        faults: faults(plan, row, &measured, baseline),
        // One round may be slow by chance.
        note: communication(&measured)
            .or_else(|| if measured.len() > 1 { note(row, ratio) } else { None }),
        busy: busy(&measured, cores),
        tokens_per_s: Spread::of(&rates),
        ratio,
        peak_memory_bytes: median(&each(|m| Some(m.summary.memory() as f64))),
        speed_of_light: median(&rates)
            .zip(flops_per_token)
            .zip(best_product_flops)
            .map(|((rate, flops), best)| rate * flops / best),
        data_wait: median(&each(|m| m.summary.data_wait)),
        time_to_first_step_s: slowest(each(|m| Some(m.summary.time_to_first_step_s))),
        warmup_s: slowest(warmups),
        final_loss: median(&each(|m| m.summary.final_loss)),
        precision: name(|m| &m.summary.precision),
        attention: name(|m| &m.summary.attention),
        versions: first.and_then(|m| m.summary.versions.clone()),
        curve: first.map_or(Vec::new(), |m| curve(m, m.losses())),
    }
}

/// What several processes spent in exchanges.
fn communication(measured: &[&Measurement]) -> Option<String> {
    let shares = measured.iter().filter_map(|m| Some(m.summary.ranks?.communication));
    let share = median(&shares.collect::<Vec<_>>())?;
    Some(format!(
        "{:.0}% of the time in exchanges; memory is that of the largest process",
        100.0 * share
    ))
}

/// The rounds that both a row and the baseline have.
fn paired(row: &RowResult, baseline: &RowResult, warmup: u64) -> (Vec<Round>, Vec<Round>) {
    let both = row.rounds.iter().zip(&baseline.rounds);
    let both = both.filter_map(|(row, base)| row.as_ref().zip(base.as_ref()));
    both.map(|(row, base)| (row.steady(warmup), base.steady(warmup))).unzip()
}

/// Why a row's numbers do not count: a benchmark is also a test.
fn faults(
    plan: &SizePlan<'_>,
    row: &MatrixRow,
    measured: &[&Measurement],
    baseline: &RowResult,
) -> Vec<String> {
    let [low, high] = plan.effort.loss;
    let mut faults = Vec::new();
    let mut fault = |text: String| {
        if !faults.contains(&text) {
            faults.push(text);
        }
    };
    for (measured, base) in measured.iter().zip(baseline.rounds.iter().flatten()) {
        let (ours, theirs) = (&measured.summary, &base.summary);
        let loss = ours.final_loss.unwrap_or(f64::NAN);
        if !(low..=high).contains(&loss) {
            fault(format!("the loss {loss:.3} is outside of {low} to {high}"));
        }
        let base_loss = theirs.final_loss.unwrap_or(f64::NAN);
        let apart = (loss - base_loss).abs() / base_loss;
        if row.same_model && apart > plan.effort.loss_tolerance {
            fault(format!("the loss {loss:.3} is not the baseline's, {base_loss:.3}"));
        }
        if ours.tokens != theirs.tokens {
            fault(format!("it saw {} tokens, the baseline {}", ours.tokens, theirs.tokens));
        }
        let prints = ours.data_fingerprint.as_ref().zip(theirs.data_fingerprint.as_ref());
        // Several processes have the same sequences in smaller batches.
        if ours.ranks.is_none() && prints.is_some_and(|(ours, theirs)| ours != theirs) {
            fault("its batches are not the baseline's".to_owned());
        }
    }
    faults
}

/// A row that is slower than the baseline is never left unexplained.
fn note(row: &MatrixRow, ratio: Option<ConfidenceInterval>) -> Option<String> {
    let ratio = ratio?;
    if ratio.value >= 1.0 {
        return None;
    }
    if ratio.high >= 1.0 {
        return Some("as fast as the baseline, within noise".to_owned());
    }
    let unknown = || format!("the reason is not known: `bert4rs profile` shows it ({})", row.name);
    Some(format!("slower: {}", row.slower.clone().unwrap_or_else(unknown)))
}

/// Says in how many of the measurements more than a tenth of the cores did something else.
fn busy(measured: &[&Measurement], cores: usize) -> Option<String> {
    let missing = measured.iter().filter_map(|m| m.summary.missing_cores());
    let busy: Vec<f64> = missing.filter(|missing| *missing > 0.1 * cores as f64).collect();
    let most = Spread::of(&busy)?.max;
    let (count, all) = (busy.len(), measured.len());
    Some(format!(
        "the machine was busy in {count} of {all} rounds: up to {most:.1} of {cores} cores did \
         other work"
    ))
}

fn curve(measurement: &Measurement, losses: Vec<f64>) -> Vec<[f64; 2]> {
    let points = measurement.steps.iter().zip(losses).map(|(step, loss)| [step.time_s, loss]);
    points.filter(|[_, loss]| loss.is_finite()).collect()
}

/// The first racer is the baseline.
fn race_reports(racers: Vec<Racer>, cores: usize) -> Vec<RaceReport> {
    /// The mean of a twentieth of the steps is less noisy than a step's loss.
    fn smooth(measurement: &Measurement) -> Vec<f64> {
        trailing_means(&measurement.losses(), (measurement.steps.len() / 20).max(1))
    }
    let end_of = |measurement: &Measurement| smooth(measurement).last().copied();
    let baseline = racers.first().and_then(|(.., outcome)| outcome.as_ref().ok().cloned());
    let target = baseline.as_ref().and_then(end_of);
    let time_to = |measurement: &Measurement| -> Option<f64> {
        let (target, losses) = (target?, smooth(measurement));
        let first = losses.iter().position(|loss| *loss <= target)?;
        Some(measurement.steps[first].time_s)
    };
    let baseline_time = baseline.as_ref().and_then(time_to);
    let report = |(name, steps, outcome): Racer| {
        let measurement = outcome.as_ref().ok();
        let time = measurement.and_then(time_to);
        RaceReport {
            name,
            steps,
            target_loss: target,
            time_to_loss_s: time,
            share_of_baseline: time.zip(baseline_time).map(|(time, base)| time / base),
            final_loss: measurement.and_then(end_of),
            busy: measurement.and_then(|m| busy(&[m], cores)),
            curve: measurement.map_or(Vec::new(), |m| curve(m, smooth(m))),
            error: outcome.err(),
        }
    };
    racers.into_iter().map(report).collect()
}
