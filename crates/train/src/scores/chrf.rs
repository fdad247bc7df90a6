//! chrF of a whole corpus (Popović 2015): F with twice the weight on recall, of the mean precision
//! and recall of one to six characters, spaces left out. Reference: sacreBLEU's `corpus_chrf`.

use std::ops::AddAssign;

use super::{ngrams, ratio};

const LONGEST: usize = 6;
/// How much more recall counts than precision.
const BETA: f64 = 2.0;

/// What chrF is of: counts that add up over texts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ChrfCounts {
    /// By the runs' length: those that both have, the translation's, the reference's.
    runs: [[usize; 3]; LONGEST],
}

impl ChrfCounts {
    /// Of one translation and its reference.
    pub fn of(translation: &str, reference: &str) -> Self {
        let letters =
            |text: &str| text.chars().filter(|letter| !letter.is_whitespace()).collect::<Vec<_>>();
        let (found, right) = (letters(translation), letters(reference));
        let mut counts = Self::default();
        for (order, counts) in counts.runs.iter_mut().enumerate() {
            let (found, right) =
                (ngrams::count(&found, order + 1), ngrams::count(&right, order + 1));
            counts[0] = ngrams::shared(&found, &right);
            // What no reference is long enough for does not count.
            counts[1] = if right.is_empty() { 0 } else { found.values().sum() };
            counts[2] = right.values().sum::<usize>();
        }
        counts
    }

    /// chrF, 0 to 100.
    pub fn score(&self) -> f64 {
        let counted: Vec<[f64; 3]> = self
            .runs
            .iter()
            .filter(|counts| counts[1] > 0 && counts[2] > 0)
            .map(|counts| counts.map(|count| count as f64))
            .collect();
        let mean = |of: usize| {
            let sum: f64 = counted.iter().map(|counts| counts[0] / counts[of]).sum();
            ratio(sum, counted.len() as f64)
        };
        let (precision, recall, factor) = (mean(1), mean(2), BETA * BETA);
        100.0 * ratio((1.0 + factor) * precision * recall, factor * precision + recall)
    }
}

impl AddAssign for ChrfCounts {
    fn add_assign(&mut self, other: Self) {
        for (counts, more) in self.runs.iter_mut().zip(other.runs) {
            counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        }
    }
}

/// chrF, 0 to 100, of translations with a reference each.
pub fn chrf(pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> f64 {
    let mut counts = ChrfCounts::default();
    for (translation, reference) in pairs {
        counts += ChrfCounts::of(translation.as_ref(), reference.as_ref());
    }
    counts.score()
}
