//! Which pieces of words a Unigram vocabulary has, and how likely each is: expectation maximisation
//! from many pieces to few. Source: Kudo 2018, <https://arxiv.org/abs/1804.10959>, section 3.2, as
//! SentencePiece and the `tokenizers` crate have it.
//!
//! | file | holds |
//! | --- | --- |
//! | `seeds` | the pieces to begin with |
//! | `trie` | pieces found in a word |
//! | `lattice` | all ways to cut a word, and the best |
//! | `prune` | which pieces are missed least |
//!
//! The crate's own trainer adds up what each pair of pieces that meet gives, the square of what
//! there is in repetitive text; here each position has one sum. Words are summed in
//! [`PARTS`] parts, whatever the number of threads, and the parts in their order: the result
//! depends on the words alone.

mod lattice;
mod prune;
mod seeds;
mod trie;

use rayon::prelude::*;

use super::alphabet::Alphabet;
use lattice::Lattice;
use prune::prune;
use seeds::seeds;
use trie::PieceTrie;

/// The longest piece, in characters.
const MAX_PIECE_CHARS: usize = 16;
/// Parts that are summed apart.
const PARTS: usize = 16;
/// Steps of expectation and maximisation before each pruning.
const STEPS: usize = 2;
/// The share of pieces that a pruning leaves.
const SHRINKING: f64 = 0.75;
/// Pruning ends at so many times the pieces that are wanted; the rest go by their order.
const SPARE: f64 = 1.1;
/// Pieces expected less often are dropped.
const LEAST_COUNT: f64 = 0.5;
/// What parts the scores of characters that no word needs by themselves.
const RUNG: f64 = 0.0001;

/// A word as characters, and how often it occurs.
pub(super) struct CountedWord {
    chars: Vec<char>,
    count: f64,
}

impl CountedWord {
    pub(super) fn new(text: &str, count: u64) -> Self {
        Self { chars: text.chars().collect(), count: count as f64 }
    }
}

/// A piece and the logarithm of its probability.
pub(super) type ScoredPiece = (String, f64);

/// At most `count` pieces, those of `alphabet` among them, that make `words` most likely: most
/// likely first, those that are equally likely by their text. `seed_count` are begun with.
pub(super) fn train_pieces(
    words: &[CountedWord],
    alphabet: &Alphabet,
    (count, seed_count): (usize, usize),
) -> Vec<ScoredPiece> {
    let most = (count as f64 * SPARE) as usize;
    let mut pieces = seeds(words, seed_count);
    loop {
        for _ in 0..STEPS {
            pieces = maximised(&pieces, &expected(&pieces, words));
        }
        let before = pieces.len();
        if before <= most {
            break;
        }
        let kept = most.max((before as f64 * SHRINKING) as usize);
        pieces = prune(&pieces, words, kept);
        if pieces.len() == before {
            break;
        }
    }
    chosen(pieces, alphabet, count)
}

/// How often each of `pieces` is expected in all `words`.
fn expected(pieces: &[ScoredPiece], words: &[CountedWord]) -> Vec<f64> {
    let trie = PieceTrie::new(pieces);
    let of_part = |words: &[CountedWord]| {
        let mut expected = vec![0.0; pieces.len()];
        let mut lattice = Lattice::default();
        for word in words {
            lattice.fill(&trie, &word.chars);
            lattice.add_expected(word.count, &mut expected);
        }
        expected
    };
    sum_of_parts(words, of_part)
}

/// The sum of what `of_part` makes of each part of `words`.
fn sum_of_parts(
    words: &[CountedWord],
    of_part: impl Fn(&[CountedWord]) -> Vec<f64> + Send + Sync,
) -> Vec<f64> {
    let parts = words.par_chunks(words.len().div_ceil(PARTS).max(1));
    let sums: Vec<Vec<f64>> = parts.map(of_part).collect();
    let mut total = sums.into_iter();
    let mut sum = total.next().unwrap_or_default();
    for part in total {
        sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    sum
}

/// The scores that follow from these counts. A sparse prior, as of SentencePiece: digamma in place
/// of the logarithm takes more from pieces that are rare.
fn maximised(pieces: &[ScoredPiece], expected: &[f64]) -> Vec<ScoredPiece> {
    let counted = pieces.iter().zip(expected).filter(|(_, count)| **count >= LEAST_COUNT);
    let sum: f64 = counted.clone().map(|(_, count)| count).sum();
    let log_sum = digamma(sum);
    counted.map(|((text, _), count)| (text.clone(), digamma(*count) - log_sum)).collect()
}

/// The logarithmic derivative of the gamma function, for numbers above 0.
fn digamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 7.0 {
        shift -= 1.0 / x;
        x += 1.0;
    }
    x -= 0.5;
    let inverse = 1.0 / (x * x);
    let series = inverse
        * (1.0 / 24.0
            + inverse * (-7.0 / 960.0 + inverse * (31.0 / 8064.0 - inverse * 127.0 / 30720.0)));
    shift + x.ln() + series
}

/// Every character of `alphabet`, and the first of `pieces` beside them. Characters that got lost
/// have scores from the least one upwards.
fn chosen(pieces: Vec<ScoredPiece>, alphabet: &Alphabet, count: usize) -> Vec<ScoredPiece> {
    let character = |text: &str| {
        let mut chars = text.chars();
        chars.next().filter(|_| chars.next().is_none())
    };
    let is_required = |text: &str| character(text).is_some_and(|c| alphabet.contains(&c));
    let least = pieces.iter().map(|(_, score)| *score).fold(0.0, f64::min);
    let (single, rest): (Vec<_>, Vec<_>) =
        pieces.into_iter().partition(|(text, _)| is_required(text));
    let known: Alphabet = single.iter().filter_map(|(text, _)| character(text)).collect();
    let lost: Vec<char> = alphabet.difference(&known).copied().collect();
    let lost = lost
        .into_iter()
        .rev()
        .enumerate()
        .map(|(rung, c)| (c.to_string(), least + RUNG * rung as f64));
    let mut all: Vec<ScoredPiece> = lost.chain(single).collect();
    let room = count.saturating_sub(all.len());
    all.extend(rest.into_iter().take(room));
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all
}

#[cfg(test)]
mod tests {
    use tokenizers::models::unigram::{Unigram, UnigramTrainer};

    use super::*;

    fn words(counts: &[(&str, u64)]) -> Vec<CountedWord> {
        counts.iter().map(|&(text, count)| CountedWord::new(text, count)).collect()
    }

    #[test]
    fn digamma_is_that_of_tables() {
        for (x, expected) in [(1.0, -0.577_215_664_9), (0.5, -1.963_510_026), (10.0, 2.251_752_589)]
        {
            assert!((digamma(x) - expected).abs() < 1e-8, "{x}: {}", digamma(x));
        }
    }

    #[test]
    fn counts_are_those_of_all_ways_to_cut() {
        let pieces: Vec<ScoredPiece> =
            [("a", 0.5f64), ("b", 0.25), ("ab", 0.25)].map(|(t, p)| (t.to_owned(), p.ln())).into();
        // "ab" is one piece with 0.25, two with 0.125.
        let found = expected(&pieces, &words(&[("ab", 3), ("a", 2)]));
        for (found, expected) in found.iter().zip([1.0 + 2.0, 1.0, 2.0]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    /// What the trainer of the `tokenizers` crate makes of the same.
    fn trained_by_the_crate(counts: &[(String, u64)], count: usize) -> Vec<ScoredPiece> {
        let trainer = UnigramTrainer::builder()
            .show_progress(false)
            .vocab_size(count as u32)
            .seed_size(1000)
            .build()
            .unwrap();
        let words = counts.iter().map(|(text, count)| (text.clone(), *count as u32)).collect();
        let mut model = Unigram::default();
        trainer.do_train(words, &mut model).unwrap();
        model.iter().cloned().collect()
    }

    #[test]
    fn pieces_and_scores_are_those_of_the_crate() {
        let stems = ["happy", "kind", "do", "seen", "like", "read"];
        let ends = [("", 60), ("ly", 7), ("ness", 5), ("ing", 9)];
        let mut counts = Vec::new();
        for (at, stem) in stems.iter().enumerate() {
            for (end, times) in ends {
                counts.push((format!("\u{2581}{stem}{end}"), times + at as u64));
                counts.push((format!("\u{2581}un{stem}{end}"), times / 2 + at as u64));
            }
        }
        let words: Vec<_> = counts.iter().map(|(text, n)| CountedWord::new(text, *n)).collect();
        let alphabet: Alphabet = words.iter().flat_map(|word| word.chars.iter().copied()).collect();
        for (count, same_share) in [(120, 1.0), (40, 0.9)] {
            let found = train_pieces(&words, &alphabet, (count, 1000));
            let expected = trained_by_the_crate(&counts, count);
            assert_eq!(found.len(), expected.len(), "{count}");
            assert!(found.is_sorted_by(|a, b| a.1 >= b.1));
            let is_same = |(text, score): &&ScoredPiece| {
                let other = expected.iter().find(|(other, _)| other == text);
                other.is_some_and(|(_, other)| (score - other).abs() < 0.2)
            };
            let same = found.iter().filter(is_same).count() as f64 / found.len() as f64;
            assert!(same >= same_share, "{count}: {same} of {found:?} in {expected:?}");
        }
    }

    #[test]
    fn repetitive_words_take_time_by_their_length() {
        let long = |i: usize| format!("{}{}", "ab".repeat(50 - i % 7), "a".repeat(i % 5));
        let long: Vec<CountedWord> = (0..400).map(|i| CountedWord::new(&long(i), 1)).collect();
        let began = std::time::Instant::now();
        let found = train_pieces(&long, &Alphabet::from(['a', 'b']), (30, 300));
        assert!(found.iter().any(|(text, _)| text.chars().count() == MAX_PIECE_CHARS));
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }
}
