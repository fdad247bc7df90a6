//! What written texts are worth beside those that were asked for.

use crate::finetune::NamedScores;
use crate::scores::bleu::BleuCounts;
use crate::scores::chrf::ChrfCounts;
use crate::scores::rouge::{Rouge, rouge};

/// What one text is worth: kept beside it, as intervals of scores count it a thousand times.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TextWorth {
    bleu: BleuCounts,
    chrf: ChrfCounts,
    rouge: Rouge,
    /// 1 where both are the same but for space around them.
    exact: f64,
}

impl TextWorth {
    /// Of `text` beside `right`.
    pub fn of(text: &str, right: &str) -> Self {
        Self {
            bleu: BleuCounts::of(text, right),
            chrf: ChrfCounts::of(text, right),
            rouge: rouge(text, right),
            exact: f64::from(u8::from(text.trim() == right.trim())),
        }
    }
}

/// Scores of all: ROUGE and exact matches 0 to 1, BLEU and chrF 0 to 100.
pub(super) fn scores(all: &[TextWorth]) -> NamedScores {
    let mut sum = TextWorth::default();
    for one in all {
        sum.bleu += one.bleu;
        sum.chrf += one.chrf;
        sum.rouge.rouge1 += one.rouge.rouge1;
        sum.rouge.rouge2 += one.rouge.rouge2;
        sum.rouge.rouge_l += one.rouge.rouge_l;
        sum.exact += one.exact;
    }
    let mean = |sum: f64| sum / all.len().max(1) as f64;
    vec![
        ("rouge1".into(), mean(sum.rouge.rouge1)),
        ("rouge2".into(), mean(sum.rouge.rouge2)),
        ("rouge_l".into(), mean(sum.rouge.rouge_l)),
        ("bleu".into(), sum.bleu.score()),
        ("chrf".into(), sum.chrf.score()),
        ("exact_match".into(), mean(sum.exact)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scores::bleu::bleu;

    #[test]
    fn counts_of_texts_add_up_to_those_of_all() {
        let pairs = [("the cat sat on the mat", "the cat sat on a mat"), ("a dog", "a dog")];
        let all: Vec<_> = pairs.iter().map(|(text, right)| TextWorth::of(text, right)).collect();
        let found = scores(&all);
        let score = |name: &str| found.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!(score("bleu"), bleu(pairs));
        assert_eq!(score("exact_match"), 0.5);
        assert!(score("rouge_l") > 0.8 && score("chrf") < 100.0, "{found:?}");
    }
}
