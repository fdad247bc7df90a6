//! The numbers of a report, from the times of single steps.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// How often the bootstrap draws.
const DRAWS: usize = 2000;

/// The share of draws that its interval holds.
const CONFIDENCE: f64 = 0.95;

/// The middle of some values and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// A ratio, and where it lies with a confidence of 95%.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConfidenceInterval {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// One round's steps after the warm-up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Round {
    pub(crate) steps: Vec<TimedStep>,
}

/// How long a step took, and how much it did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TimedStep {
    /// Real tokens: all but padding.
    pub(crate) tokens: f64,
    pub(crate) time_s: f64,
}

/// The middle value, or the mean of the middle two; `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let median = median(values)?;
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self { median, min, max })
    }
}

/// Tokens a second of a round: all tokens over all the time, slow steps included.
pub(crate) fn tokens_per_s(round: &Round) -> f64 {
    rate(round.steps.iter())
}

fn rate<'a>(steps: impl Iterator<Item = &'a TimedStep>) -> f64 {
    let (tokens, time) =
        steps.fold((0.0, 0.0), |(tokens, time), step| (tokens + step.tokens, time + step.time_s));
    tokens / time
}

/// How much faster `row` is than `baseline`: the ratio of the median rounds.
///
/// Both are slices of the same rounds. The interval is the percentile bootstrap (Efron and
/// Tibshirani 1993, ch. 13) in two levels: rounds are drawn with replacement, the same for both,
/// as what slows the machine in a round slows both; in each, its steps are drawn.
pub(crate) fn speed_ratio(row: &[Round], baseline: &[Round]) -> Option<ConfidenceInterval> {
    assert_eq!(row.len(), baseline.len(), "rounds are paired");
    let of_all = |rounds: &[Round]| median(&rounds.iter().map(tokens_per_s).collect::<Vec<_>>());
    let value = of_all(row)? / of_all(baseline)?;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut draws = Vec::with_capacity(DRAWS);
    for _ in 0..DRAWS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..row.len() {
            let round = random.random_range(0..row.len());
            ours.push(resampled(&row[round], &mut random));
            theirs.push(resampled(&baseline[round], &mut random));
        }
        draws.push(median(&ours)? / median(&theirs)?);
    }
    draws.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let at = |share: f64| draws[((DRAWS - 1) as f64 * share).round() as usize];
    Some(ConfidenceInterval { value, low: at(tail), high: at(1.0 - tail) })
}

/// Tokens a second of as many steps, drawn with replacement.
fn resampled(round: &Round, random: &mut impl Rng) -> f64 {
    let steps = &round.steps;
    let drawn: Vec<usize> = steps.iter().map(|_| random.random_range(0..steps.len())).collect();
    rate(drawn.into_iter().map(|index| &steps[index]))
}

/// The mean over each value and those before it, at most `window`.
pub(crate) fn trailing_means(values: &[f64], window: usize) -> Vec<f64> {
    let mean = |end: usize| {
        let part = &values[end.saturating_sub(window)..end];
        part.iter().sum::<f64>() / part.len() as f64
    };
    (1..=values.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(times: &[f64]) -> Round {
        let step = |time: &f64| TimedStep { tokens: 100.0, time_s: *time };
        Round { steps: times.iter().map(step).collect() }
    }

    #[test]
    fn spreads_hold_for_even_and_odd_counts() {
        assert_eq!(Spread::of(&[]), None);
        let odd = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_slow_step_counts() {
        assert_eq!(tokens_per_s(&round(&[1.0, 1.0, 2.0])), 75.0);
    }

    #[test]
    fn steady_times_have_a_narrow_interval() {
        let (fast, slow) = (round(&[0.5; 8]), round(&[1.0; 8]));
        let ratio = speed_ratio(&[fast.clone(), fast], &[slow.clone(), slow]).unwrap();
        assert_eq!((ratio.value, ratio.low, ratio.high), (2.0, 2.0, 2.0));
        assert_eq!(speed_ratio(&[], &[]), None);
    }

    #[test]
    fn what_slows_both_in_a_round_does_not_widen_the_interval() {
        let rounds = |scale: f64| -> Vec<Round> {
            [1.0, 1.5, 2.0].iter().map(|drift| round(&[scale * drift; 6])).collect()
        };
        let ratio = speed_ratio(&rounds(0.25), &rounds(1.0)).unwrap();
        assert_eq!((ratio.value, ratio.low, ratio.high), (4.0, 4.0, 4.0));
    }

    #[test]
    fn the_interval_covers_the_truth_as_often_as_it_says() {
        // Means of 1.0 and 0.5 with noise of 10%: the ratio is 2.
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut noisy = |mean: f64| -> Vec<Round> {
            let mut step = || mean * (1.0 + 0.1 * random.random_range(-1.0..1.0));
            (0..5).map(|_| round(&(0..20).map(|_| step()).collect::<Vec<_>>())).collect()
        };
        let covers = |ratio: ConfidenceInterval| ratio.low <= 2.0 && 2.0 <= ratio.high;
        let hits =
            (0..60).filter(|_| covers(speed_ratio(&noisy(0.5), &noisy(1.0)).unwrap())).count();
        assert!(hits >= 50, "{hits} of 60 intervals cover the ratio");
        let wide = speed_ratio(&noisy(0.5), &noisy(1.0)).unwrap();
        assert!(wide.high - wide.low > 0.005, "{wide:?} has a width");
    }

    #[test]
    fn trailing_means_start_with_what_there_is() {
        assert_eq!(trailing_means(&[4.0, 2.0, 0.0, 2.0], 2), [4.0, 3.0, 1.0, 1.0]);
        assert!(trailing_means(&[], 3).is_empty());
    }
}
