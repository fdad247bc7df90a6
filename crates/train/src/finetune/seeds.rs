//! Several runs that differ by their seed alone: the mean of each score, and how far it spreads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A score over several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of a sample; 0 of one run.
    pub standard_deviation: f64,
    /// Runs.
    pub runs: usize,
}

/// The spread of each score that all of `runs` have.
pub fn spreads(runs: &[BTreeMap<String, f64>]) -> BTreeMap<String, Spread> {
    let Some(first) = runs.first() else { return BTreeMap::new() };
    let spread = |name: &String| {
        let values: Vec<f64> = runs.iter().filter_map(|run| run.get(name).copied()).collect();
        (values.len() == runs.len()).then(|| (name.clone(), of(&values)))
    };
    first.keys().filter_map(spread).collect()
}

fn of(values: &[f64]) -> Spread {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let standard_deviation = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
    Spread { mean, standard_deviation, runs: values.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_its_mean_and_deviation() {
        let run = |value: f64| BTreeMap::from([("f1".to_owned(), value)]);
        let found = spreads(&[run(1.0), run(2.0), run(4.0)])["f1"];
        assert!((found.mean - 7.0 / 3.0).abs() < 1e-12);
        assert!((found.standard_deviation - (7.0f64 / 3.0).sqrt()).abs() < 1e-12, "{found:?}");
        assert_eq!(spreads(&[run(0.5)])["f1"].standard_deviation, 0.0);
    }
}
