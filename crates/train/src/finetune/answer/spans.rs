//! From logits of first and last tokens to answers, as transformers' `run_qa.py` has it: in each
//! window the best pairs of a likely first and a likely last token, then the best of all windows.

use super::AnswerWindow;

/// Likely first tokens, and last ones, that are paired; and pairs that are kept.
pub const SEARCHED: usize = 20;

/// A stretch of a window's tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerSpan {
    /// Its first token.
    pub first: usize,
    /// Its last token.
    pub last: usize,
    /// The sum of both tokens' logits.
    pub score: f64,
    /// Its text; empty until it is joined.
    pub text: String,
}

/// What the model says of a question.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerPrediction {
    /// The best answers, the best first.
    pub spans: Vec<AnswerSpan>,
    /// The score of there being no answer: that of the token before the question, in the window
    /// where it is least.
    pub none: f64,
    /// What the best span is worth, of a question whose answers are known.
    pub worth: Option<AnswerWorth>,
}

/// What an answer is worth: kept beside it, as intervals of scores count it a thousand times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerWorth {
    /// Whether the question has an answer.
    pub has_answer: bool,
    /// Whether it is right.
    pub exact: f64,
    /// F1 of its words.
    pub f1: f64,
}

impl AnswerPrediction {
    /// The text of the best span; empty where there is none.
    pub fn best(&self) -> &str {
        self.spans.first().map_or("", |span| &span.text)
    }

    /// How much surer the model is that there is no answer than of the best one.
    pub fn no_answer(&self) -> f64 {
        self.spans.first().map_or(f64::INFINITY, |best| self.none - best.score)
    }
}

/// The best spans of a window, from the logits of each token being the first of an answer and the
/// last: of tokens that `in_text` says yes to, and at most `longest` of them.
pub fn spans_of_window(
    first: &[f32],
    last: &[f32],
    in_text: impl Fn(usize) -> bool,
    longest: usize,
) -> AnswerPrediction {
    let (firsts, lasts) = (largest(first), largest(last));
    let mut spans = Vec::new();
    for &start in firsts.iter().filter(|&&at| in_text(at)) {
        for &end in lasts.iter().filter(|&&at| in_text(at)) {
            if end >= start && end - start < longest {
                let score = f64::from(first[start]) + f64::from(last[end]);
                spans.push(AnswerSpan { first: start, last: end, score, text: String::new() });
            }
        }
    }
    keep_best(&mut spans);
    let at_start = |logits: &[f32]| logits.first().map_or(f64::NEG_INFINITY, |&x| x.into());
    AnswerPrediction { spans, none: at_start(first) + at_start(last), worth: None }
}

/// The places of the greatest values, the greatest first.
fn largest(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&left, &right| values[right].total_cmp(&values[left]));
    order.truncate(SEARCHED);
    order
}

fn keep_best(spans: &mut Vec<AnswerSpan>) {
    spans.sort_by(|left, right| right.score.total_cmp(&left.score));
    spans.truncate(SEARCHED);
}

/// The best spans of all `windows` of a question, with their texts, from those of each.
pub(super) fn join(windows: &[&AnswerWindow], said: Vec<AnswerPrediction>) -> AnswerPrediction {
    let none = said.iter().map(|said| said.none).fold(f64::INFINITY, f64::min);
    let with_texts = windows.iter().zip(said).flat_map(|(window, said)| {
        said.spans.into_iter().map(|span| AnswerSpan { text: window.text_of(&span), ..span })
    });
    let mut spans: Vec<AnswerSpan> = with_texts.collect();
    keep_best(&mut spans);
    AnswerPrediction { spans, none, worth: None }
}

/// The probability of each of `scores` beside the others.
pub fn shares(scores: &[f64]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_lie_in_the_text_and_are_no_longer_than_said() {
        let first = [9.0, 1.0, 5.0, 0.0, 4.0];
        let last = [8.0, 1.0, 0.0, 3.0, 6.0];
        let found = spans_of_window(&first, &last, |at| at >= 2, 2);
        let spans: Vec<_> =
            found.spans.iter().map(|span| (span.first, span.last, span.score)).collect();
        let expected = [(4, 4, 10.0), (2, 3, 8.0), (3, 4, 6.0), (2, 2, 5.0), (3, 3, 3.0)];
        assert_eq!(spans, expected);
        assert_eq!((found.none, found.no_answer()), (17.0, 7.0));
        let nothing = spans_of_window(&first, &last, |_| false, 2);
        assert_eq!((nothing.best(), nothing.no_answer()), ("", f64::INFINITY));
        let shares = shares(&[1.0, 1.0 + 3.0_f64.ln()]);
        assert!((shares[1] - 0.75).abs() < 1e-12, "{shares:?}");
    }
}
