//! What a task's predictions are worth, as its field counts it: pure functions of what was
//! predicted and what was right. Each file names its formula and the reference implementation that
//! its tests' vectors are from (`tests/vectors/make_scores.py`).
//!
//! | module | holds |
//! | --- | --- |
//! | [`confusion`] | one class of several: accuracy, F1, Matthews' correlation, the table itself |
//! | [`multi_label`] | any number of classes: F1, exact matches |
//! | [`auc`] | the area under the ROC curve |
//! | [`correlation`] | Pearson's and Spearman's, and mean squared distance |
//! | [`entities`] | F1 of entities, as seqeval |
//! | [`answers`] | exact match and F1 of answers, as SQuAD's script |
//! | [`ranking`] | reciprocal ranks and NDCG |
//! | [`bleu`], [`chrf`] | translations, as sacreBLEU |
//! | [`rouge`] | summaries, as rouge_score |
//! | [`bootstrap`] | how far a score would move with other examples |

pub mod answers;
pub mod auc;
pub mod bleu;
pub mod bootstrap;
pub mod chrf;
pub mod confusion;
pub mod correlation;
pub mod entities;
pub mod multi_label;
mod ngrams;
pub mod ranking;
pub mod rouge;

/// `numerator / denominator`, and 0 where that is of nothing.
fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 { 0.0 } else { numerator / denominator }
}

/// The harmonic mean of precision and recall, from counts: `2 tp / (2 tp + fp + fn)`.
fn f1(true_positive: f64, predicted: f64, actual: f64) -> f64 {
    ratio(2.0 * true_positive, predicted + actual)
}

/// Perplexity: `e` to the mean loss of a token in nats.
pub fn perplexity(mean_loss: f64) -> f64 {
    mean_loss.exp()
}

#[cfg(test)]
mod tests;
