//! Answers to questions, compared without case, punctuation, articles and surplus space. Reference:
//! the evaluation scripts of SQuAD 1.1 and 2.0.

use std::collections::HashMap;

use super::{f1, ratio};

/// The words that are compared.
pub fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let bare: String = lower.chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
    without_articles(&bare).split_whitespace().map(str::to_owned).collect()
}

/// Articles are those that stand between what is no letter and no digit, as in `a–b`.
fn without_articles(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut word = String::new();
    let end_word = |word: &mut String, kept: &mut String| {
        kept.push_str(if ["a", "an", "the"].contains(&word.as_str()) { " " } else { word });
        word.clear();
    };
    for letter in text.chars() {
        if letter.is_alphanumeric() {
            word.push(letter);
        } else {
            end_word(&mut word, &mut kept);
            kept.push(letter);
        }
    }
    end_word(&mut word, &mut kept);
    kept
}

/// 1 where `answer` is one of `right`; where there is none, where it is empty.
pub fn exact_match(answer: &str, right: &[&str]) -> f64 {
    best(right, |right| f64::from(u8::from(words(answer) == words(right))))
}

/// The best F1 of words with one of `right`; where there is none, 1 for an empty answer.
pub fn word_f1(answer: &str, right: &[&str]) -> f64 {
    best(right, |right| {
        let (found, right) = (words(answer), words(right));
        if found.is_empty() || right.is_empty() {
            return f64::from(u8::from(found == right));
        }
        let mut left = HashMap::new();
        right.iter().for_each(|word| *left.entry(word).or_insert(0u32) += 1);
        let shared = found.iter().filter(|word| match left.get_mut(word) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        });
        f1(shared.count() as f64, found.len() as f64, right.len() as f64)
    })
}

/// SQuAD 2.0 takes an empty text for the right answer of a question that has none.
fn best(right: &[&str], score: impl Fn(&str) -> f64) -> f64 {
    let none = [""];
    let right = if right.is_empty() { &none } else { right };
    right.iter().map(|right| score(right)).fold(0.0, f64::max)
}

/// A question's answer and what it is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredAnswer {
    /// The score of the answer that was found, such as its F1.
    pub score: f64,
    /// Whether the question has an answer.
    pub has_answer: bool,
    /// Whether the answer that was found is empty.
    pub is_empty: bool,
    /// How sure the model is that there is none, higher for surer.
    pub no_answer: f64,
}

/// The threshold on `no_answer`, up to which the answer counts, and above which the empty one does,
/// that gives the best mean score, and that score: SQuAD 2.0's `best_exact` and `best_f1`.
pub fn best_threshold(answers: &[ScoredAnswer]) -> (f64, f64) {
    let empty = |answer: &ScoredAnswer| f64::from(u8::from(!answer.has_answer));
    let mut sum: f64 = answers.iter().map(empty).sum();
    let (mut best, mut threshold) = (sum, 0.0);
    let mut order: Vec<&ScoredAnswer> = answers.iter().collect();
    order.sort_by(|left, right| left.no_answer.total_cmp(&right.no_answer));
    for answer in order {
        sum += match (answer.has_answer, answer.is_empty) {
            (true, _) => answer.score,
            // An answer where there is none loses the point that silence had.
            (false, false) => -1.0,
            (false, true) => 0.0,
        };
        if sum > best {
            (best, threshold) = (sum, answer.no_answer);
        }
    }
    (threshold, ratio(best, answers.len() as f64))
}
