//! All ways to cut a word into pieces, and the best of them, in time by the number of pieces that
//! are found in it.

use super::trie::{PieceMatch, PieceTrie};

/// The pieces of one word. Its memory is used again for the next.
#[derive(Default)]
pub(super) struct Lattice {
    /// By where they begin, shorter ones first.
    matches: Vec<PieceMatch>,
    length: usize,
    sums: Vec<LogSum>,
    /// For each place, the logarithm of the probability of all cuts before it, and after it.
    before: Vec<f64>,
    after: Vec<f64>,
    /// For each place, the score of the best cut before it, and its last piece.
    best: Vec<(f64, usize)>,
}

/// The logarithm of a sum of numbers that are given by their logarithms.
#[derive(Debug, Clone, Copy)]
struct LogSum {
    largest: f64,
    /// The sum over the largest.
    relative: f64,
}

impl LogSum {
    const ZERO: Self = Self { largest: f64::NEG_INFINITY, relative: 0.0 };

    fn add(&mut self, term: f64) {
        if term <= self.largest {
            self.relative += (term - self.largest).exp();
        } else {
            self.relative = 1.0 + self.relative * (self.largest - term).exp();
            self.largest = term;
        }
    }

    fn value(self) -> f64 {
        self.largest + self.relative.ln()
    }
}

impl Lattice {
    /// Finds the pieces of `word`.
    pub(super) fn fill(&mut self, trie: &PieceTrie, word: &[char]) {
        self.matches.clear();
        self.length = word.len();
        (0..word.len()).for_each(|begin| trie.find(word, begin, &mut self.matches));
    }

    /// Leaves out the piece that is the whole word.
    pub(super) fn without_whole(&mut self) {
        let length = self.length;
        self.matches.retain(|found| found.end - found.begin < length);
    }

    /// Adds `count` times the probability that each piece is in a cut of the word.
    pub(super) fn add_expected(&mut self, count: f64, expected: &mut [f64]) {
        self.sum_before();
        self.sum_after();
        let all = self.before[self.length];
        for found in &self.matches {
            let Some(piece) = found.piece else { continue };
            let log = self.before[found.begin] + found.score + self.after[found.end] - all;
            expected[piece as usize] += count * log.exp();
        }
    }

    fn sum_before(&mut self) {
        let Self { matches, length, sums, before, .. } = self;
        sums.clear();
        sums.resize(*length + 1, LogSum::ZERO);
        before.clear();
        before.resize(*length + 1, 0.0);
        for group in matches.chunk_by(|a, b| a.begin == b.begin) {
            let begin = group[0].begin;
            if begin > 0 {
                before[begin] = sums[begin].value();
            }
            group.iter().for_each(|found| sums[found.end].add(before[begin] + found.score));
        }
        if *length > 0 {
            before[*length] = sums[*length].value();
        }
    }

    fn sum_after(&mut self) {
        let Self { matches, length, after, .. } = self;
        after.clear();
        after.resize(*length + 1, 0.0);
        for group in matches.chunk_by(|a, b| a.begin == b.begin).rev() {
            let mut sum = LogSum::ZERO;
            group.iter().for_each(|found| sum.add(found.score + after[found.end]));
            after[group[0].begin] = sum.value();
        }
    }

    /// The pieces of the best cut, last first, and its score; nothing where no cut is left.
    pub(super) fn best(&mut self) -> Option<(f64, Vec<PieceMatch>)> {
        let Self { matches, length, best, .. } = self;
        best.clear();
        best.resize(*length + 1, (f64::NEG_INFINITY, usize::MAX));
        best[0].0 = 0.0;
        for (index, found) in matches.iter().enumerate() {
            let score = best[found.begin].0 + found.score;
            if score > best[found.end].0 {
                best[found.end] = (score, index);
            }
        }
        let (score, mut place) = (best[*length].0, *length);
        let mut cut = Vec::new();
        while place > 0 {
            let found = *matches.get(best[place].1)?;
            cut.push(found);
            place = found.begin;
        }
        Some((score, cut))
    }
}
