//! Which tokens of a sequence masked language modelling hides: single tokens, words, or spans.
//!
//! Words and spans are chosen here: from the words' positions, each a run, in order, and the most
//! tokens to hide, to groups of positions whose tokens are hidden, replaced or kept alike.

use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

/// What is hidden together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskUnit {
    /// Each token by itself. Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>.
    #[default]
    Tokens,
    /// All tokens of a word, as in the whole-word models that BERT's authors published in 2019.
    Words,
    /// Spans of words. Joshi et al. 2019, SpanBERT, <https://arxiv.org/abs/1907.10529>.
    Spans,
}

/// Words of the longest span.
const LONGEST_SPAN: usize = 10;
/// The chance that a span ends after each of its words.
const SPAN_ENDS: f64 = 0.2;
/// Spans are tried so often for each word that there is: most of a text may be hidden already.
const TRIES: usize = 10;

/// Words in random order, as long as they fit; each of their tokens is treated by itself, as in
/// BERT's `create_pretraining_data.py`.
pub(crate) fn whole_words(
    words: &[std::ops::Range<usize>],
    count: usize,
    random: &mut impl Rng,
) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..words.len()).collect();
    order.shuffle(random);
    let mut left = count;
    let mut chosen = Vec::new();
    for word in order {
        if words[word].len() > left {
            continue;
        }
        left -= words[word].len();
        chosen.extend(words[word].clone().map(|position| vec![position]));
        if left == 0 {
            break;
        }
    }
    chosen.sort_unstable();
    chosen
}

/// Spans that begin at any word with the same chance, of a geometric number of words up to
/// [`LONGEST_SPAN`], until `count` tokens are hidden. A span ends before what is hidden already,
/// and where the next word is too much. All of its tokens are treated alike.
pub(crate) fn spans(
    words: &[std::ops::Range<usize>],
    count: usize,
    random: &mut impl Rng,
) -> Vec<Vec<usize>> {
    let mut hidden = vec![false; words.len()];
    let mut left = count;
    let mut chosen = Vec::new();
    for _ in 0..TRIES * words.len() {
        if left == 0 {
            break;
        }
        let (first, length) = (random.random_range(0..words.len()), span_length(random));
        let mut span: Vec<usize> = Vec::new();
        for word in first..(first + length).min(words.len()) {
            let apart = word > first && words[word].start != words[word - 1].end;
            if hidden[word] || apart || span.len() + words[word].len() > left {
                break;
            }
            hidden[word] = true;
            span.extend(words[word].clone());
        }
        left -= span.len();
        if !span.is_empty() {
            chosen.push(span);
        }
    }
    chosen.sort_unstable();
    chosen
}

/// A number of words from 1 to [`LONGEST_SPAN`], geometric among these: 3.8 on average.
pub(crate) fn span_length(random: &mut impl Rng) -> usize {
    loop {
        let mut length = 1;
        while length <= LONGEST_SPAN && !random.random_bool(SPAN_ENDS) {
            length += 1;
        }
        if length <= LONGEST_SPAN {
            return length;
        }
    }
}

/// The share of tokens to hide in batch `batch` of `batches`: from `first` to `last` in a straight
/// line. Ankner et al. 2023, "Dynamic Masking Rate Schedules for MLM Pretraining",
/// <https://arxiv.org/abs/2305.15096>, who lower it from 0.3 to 0.15.
pub(crate) fn rate_at(batch: u64, batches: u64, first: f64, last: f64) -> f64 {
    let done = (batch as f64 / batches.saturating_sub(1).max(1) as f64).min(1.0);
    first + (last - first) * done
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::{Purpose, stream};

    /// Words of the lengths, end to end.
    fn words(lengths: &[usize]) -> Vec<std::ops::Range<usize>> {
        let mut end = 0;
        let word = |&length: &usize| {
            end += length;
            end - length..end
        };
        lengths.iter().map(word).collect()
    }

    fn chosen(unit: MaskUnit, lengths: &[usize], count: usize, seed: u64) -> Vec<Vec<usize>> {
        let (words, random) = (words(lengths), &mut stream(Purpose::TrainMask, seed, 0, 0));
        match unit {
            MaskUnit::Spans => spans(&words, count, random),
            _ => whole_words(&words, count, random),
        }
    }

    #[test]
    fn spans_are_as_long_as_published() {
        let mut random = stream(Purpose::TrainMask, 1, 0, 0);
        let mut counts = [0.0; LONGEST_SPAN + 1];
        for _ in 0..100_000 {
            counts[span_length(&mut random)] += 1.0 / 100_000.0;
        }
        let mean: f64 =
            counts.iter().zip(0..).map(|(share, length)| share * f64::from(length)).sum();
        // SpanBERT, section 3.1: a mean of 3.8.
        assert!((mean - 3.8).abs() < 0.03, "{mean}");
        let norm = 1.0 - 0.8f64.powi(10);
        for (length, share) in counts.iter().enumerate().skip(1) {
            let expected = 0.2 * 0.8f64.powi(length as i32 - 1) / norm;
            assert!((share - expected).abs() < 0.005, "{length}: {share} for {expected}");
        }
    }

    #[test]
    fn every_word_is_equally_likely() {
        for unit in [MaskUnit::Words, MaskUnit::Spans] {
            let lengths = [2; 40];
            let mut counts = [0u32; 40];
            for seed in 0..8000 {
                for group in chosen(unit, &lengths, 12, seed) {
                    group.iter().for_each(|position| counts[position / 2] += 1);
                }
            }
            let total: u32 = counts.iter().sum();
            assert_eq!(total, 8000 * 12, "{unit:?} fills the number exactly");
            // Spans begin anywhere and go on to the right: the first words are in fewer.
            let inner = if unit == MaskUnit::Spans { 10..40 } else { 0..40 };
            let mean = f64::from(total) / 40.0;
            for (word, &count) in counts.iter().enumerate().skip(inner.start) {
                assert!((f64::from(count) / mean - 1.0).abs() < 0.12, "{unit:?} {word}: {count}");
            }
        }
    }

    #[test]
    fn the_rate_goes_from_first_to_last() {
        let rates: Vec<f64> = [0, 25, 50, 100, 500].map(|at| rate_at(at, 101, 0.3, 0.15)).into();
        for (rate, expected) in rates.iter().zip([0.3, 0.2625, 0.225, 0.15, 0.15]) {
            assert!((rate - expected).abs() < 1e-12, "{rate} for {expected}");
        }
        assert_eq!(rate_at(0, 1, 0.3, 0.1), 0.3);
    }

    proptest! {
        #[test]
        fn words_stay_whole_and_numbers_are_kept(
            lengths in prop::collection::vec(1usize..5, 0..30),
            count in 0usize..40,
            seed: u64,
        ) {
            for unit in [MaskUnit::Words, MaskUnit::Spans] {
                let groups = chosen(unit, &lengths, count, seed);
                prop_assert_eq!(&groups, &chosen(unit, &lengths, count, seed));
                let mut all: Vec<usize> = groups.concat();
                prop_assert!(all.len() <= count);
                prop_assert!(groups.windows(2).all(|pair| pair[0][0] < pair[1][0]));
                all.sort_unstable();
                prop_assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "twice");
                for word in words(&lengths) {
                    let hidden = word.clone().filter(|at| all.binary_search(at).is_ok()).count();
                    prop_assert!(hidden == 0 || hidden == word.len(), "{:?}", word);
                }
            }
        }
    }
}
