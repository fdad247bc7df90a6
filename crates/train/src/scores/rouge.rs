//! ROUGE of one summary (Lin 2004): F1 of shared words, pairs of words, and of the longest common
//! subsequence. Words are runs of `a-z` and `0-9` in lower case, not stemmed. Reference:
//! rouge_score's `RougeScorer`.

use super::{f1, ngrams};

/// The three scores, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rouge {
    /// Of words.
    pub rouge1: f64,
    /// Of pairs of words.
    pub rouge2: f64,
    /// Of the longest common subsequence.
    pub rouge_l: f64,
}

/// Of `summary` against `reference`.
pub fn rouge(summary: &str, reference: &str) -> Rouge {
    let (found, right) = (words(summary), words(reference));
    let of_runs = |length: usize| {
        let (found, right) = (ngrams::count(&found, length), ngrams::count(&right, length));
        let total = |counts: &std::collections::HashMap<_, usize>| counts.values().sum::<usize>();
        f1(ngrams::shared(&found, &right) as f64, total(&found) as f64, total(&right) as f64)
    };
    let common = longest_common(&found, &right) as f64;
    Rouge {
        rouge1: of_runs(1),
        rouge2: of_runs(2),
        rouge_l: f1(common, found.len() as f64, right.len() as f64),
    }
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The length of the longest subsequence that both have.
fn longest_common(left: &[String], right: &[String]) -> usize {
    let mut before = vec![0; right.len() + 1];
    for word in left {
        let mut now = vec![0; right.len() + 1];
        for (index, other) in right.iter().enumerate() {
            now[index + 1] =
                if word == other { before[index] + 1 } else { now[index].max(before[index + 1]) };
        }
        before = now;
    }
    before.last().copied().unwrap_or_default()
}
