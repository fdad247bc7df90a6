//! Packing that splits only the documents that are longer than a sequence.
//!
//! Ding et al. 2024, "Fewer Truncations Improve Language Modeling",
//! <https://arxiv.org/abs/2404.10830>: documents are cut into full sequences and a rest; rests, the
//! longest first, go to the sequence that they fill best.

use std::ops::Range;

/// Part of a document: its first token, and its tokens.
pub(crate) type Piece = (u64, u32);

/// Pieces by sequence.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct BestFit {
    pieces: Vec<Piece>,
    /// The first piece of each sequence, and at last the number of pieces.
    firsts: Vec<usize>,
}

impl BestFit {
    /// Packs documents of the tokens `offsets[i]..offsets[i + 1]` into sequences of `space`
    /// positions, of which `most` tokens take all; `length` says how many a number of tokens takes.
    pub(crate) fn new(
        offsets: &[u64],
        space: usize,
        most: u64,
        length: impl Fn(u64) -> u64,
    ) -> Self {
        let mut by_length: Vec<Vec<Piece>> = vec![Vec::new(); space + 1];
        for document in offsets.windows(2) {
            let (mut token, end) = (document[0], document[1]);
            while token < end {
                let count = most.min(end - token);
                let taken = (length(count) as usize).min(space);
                by_length[taken].push((token, count as u32));
                token += count;
            }
        }
        let mut bins = Bins::new(space);
        for (taken, pieces) in by_length.into_iter().enumerate().rev() {
            pieces.into_iter().for_each(|piece| bins.add(piece, taken));
        }
        bins.into_sequences()
    }

    pub(crate) fn len(&self) -> usize {
        self.firsts.len().saturating_sub(1)
    }

    /// The tokens of each piece of a sequence.
    pub(crate) fn pieces(&self, sequence: usize) -> impl Iterator<Item = Range<usize>> + use<'_> {
        self.pieces[self.firsts[sequence]..self.firsts[sequence + 1]]
            .iter()
            .map(|&(start, count)| start as usize..start as usize + count as usize)
    }
}

/// Sequences that are being filled.
struct Bins {
    /// Of each piece, its sequence.
    pieces: Vec<(u32, Piece)>,
    count: u32,
    /// Sequences by the space that is left.
    by_space: Vec<Vec<u32>>,
    /// Which of these lists have any, 64 a word.
    any: Vec<u64>,
}

impl Bins {
    fn new(space: usize) -> Self {
        let (by_space, any) = (vec![Vec::new(); space + 1], vec![0; space / 64 + 1]);
        Self { pieces: Vec::new(), count: 0, by_space, any }
    }

    /// Adds a piece that takes `taken` positions where the least space is left after it.
    fn add(&mut self, piece: Piece, taken: usize) {
        let (bin, space) = match self.least_space(taken) {
            Some(space) => {
                let bin = self.by_space[space].pop().unwrap_or_default();
                if self.by_space[space].is_empty() {
                    self.any[space / 64] &= !(1 << (space % 64));
                }
                (bin, space)
            }
            None => {
                self.count += 1;
                (self.count - 1, self.by_space.len() - 1)
            }
        };
        self.pieces.push((bin, piece));
        self.by_space[space - taken].push(bin);
        self.any[(space - taken) / 64] |= 1 << ((space - taken) % 64);
    }

    /// The least space, of at least `taken`, that a sequence has left.
    fn least_space(&self, taken: usize) -> Option<usize> {
        let mut word = taken / 64;
        let mut bits = self.any[word] & (u64::MAX << (taken % 64));
        while bits == 0 {
            word += 1;
            bits = *self.any.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }

    fn into_sequences(mut self) -> BestFit {
        // Within a sequence, in the order of the text.
        self.pieces.sort_unstable();
        let mut firsts = vec![0; self.count as usize + 1];
        self.pieces.iter().for_each(|(bin, _)| firsts[*bin as usize + 1] += 1);
        for bin in 0..self.count as usize {
            firsts[bin + 1] += firsts[bin];
        }
        BestFit { pieces: self.pieces.into_iter().map(|(_, piece)| piece).collect(), firsts }
    }
}
