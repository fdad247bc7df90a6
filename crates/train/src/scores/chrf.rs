//! chrF of a whole corpus (Popović 2015): F with twice the weight on recall, of the mean precision
//! and recall of one to six characters, spaces left out. Reference: sacreBLEU's `corpus_chrf`.

use super::{ngrams, ratio};

const LONGEST: usize = 6;
/// How much more recall counts than precision.
const BETA: f64 = 2.0;

/// chrF, 0 to 100, of translations with a reference each.
pub fn chrf(pairs: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> f64 {
    let letters =
        |text: &str| text.chars().filter(|letter| !letter.is_whitespace()).collect::<Vec<_>>();
    let mut counts = [[0usize; 3]; LONGEST];
    for (translation, reference) in pairs {
        let (found, right) = (letters(translation.as_ref()), letters(reference.as_ref()));
        for (order, counts) in counts.iter_mut().enumerate() {
            let (found, right) =
                (ngrams::count(&found, order + 1), ngrams::count(&right, order + 1));
            counts[0] += ngrams::shared(&found, &right);
            // What no reference is long enough for does not count.
            counts[1] += if right.is_empty() { 0 } else { found.values().sum() };
            counts[2] += right.values().sum::<usize>();
        }
    }
    let counted: Vec<[f64; 3]> = counts
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
