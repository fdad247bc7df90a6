//! Masked language modelling: which positions are hidden, and the batches made of them.
//!
//! Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>, section 3.1: of the tokens, 15% are to
//! be predicted; of these, 80% are replaced by `[MASK]`, 10% by a random token, 10% are kept.

use std::sync::Arc;

use rand::Rng;

use crate::batch::{IGNORED, MlmBatch};
use crate::error::{Error, Result};
use crate::layout::{Grid, Layout, Padding};
use crate::packing::Framing;
use crate::prefetch::BatchSource;
use crate::sequences::{Sequences, Shown};
use crate::shard::TokenShard;
use crate::tokenizer::Vocabulary;

/// How batches are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlmOptions {
    /// Sequences of a batch.
    pub batch_size: usize,
    /// Positions of a sequence.
    pub sequence_length: usize,
    /// The share of a sequence's positions that is to be predicted: above 0, at most 1.
    pub mask_rate: f64,
    /// How the pieces of a sequence lie in rows.
    pub layout: Layout,
    /// Decides order and masks.
    pub seed: u64,
}

impl MlmOptions {
    fn check(&self, vocabulary: Vocabulary) -> Result<()> {
        if vocabulary.size <= 5 {
            let expected = "more than the 5 special tokens";
            return Err(Error::setting("the vocabulary size", vocabulary.size, expected));
        }
        if !(self.mask_rate > 0.0 && self.mask_rate <= 1.0) {
            return Err(Error::setting("the mask rate", self.mask_rate, "above 0, at most 1"));
        }
        if self.masked_per_sequence() == 0 {
            let expected = format!("more, to mask a position of {}", self.sequence_length);
            return Err(Error::setting("the mask rate", self.mask_rate, expected));
        }
        Ok(())
    }

    /// Positions to predict in a sequence, unless it has too few that can be.
    pub fn masked_per_sequence(&self) -> usize {
        (self.mask_rate * self.sequence_length as f64).round() as usize
    }
}

/// Batches over the documents of a token file. Each is a pure function of the options and its
/// number.
#[derive(Debug)]
pub struct MlmBatches {
    sequences: Sequences,
    vocabulary: Vocabulary,
    options: MlmOptions,
    fixed_shapes: bool,
}

impl MlmBatches {
    /// Endless full batches for training: each epoch shows every sequence once, in another order
    /// and with other masks, and batches cross from epoch to epoch. A last sequence that the
    /// documents don't fill is left out, unless it is the only one.
    ///
    /// # Errors
    /// Options that can't be used, and a file without tokens.
    pub fn train(
        shard: Arc<TokenShard>,
        vocabulary: Vocabulary,
        options: MlmOptions,
    ) -> Result<Self> {
        options.check(vocabulary)?;
        let MlmOptions { batch_size, sequence_length, seed, .. } = options;
        let framing = Framing::ClsSep;
        let sequences = Sequences::train(shard, framing, sequence_length, batch_size, seed)?;
        Ok(Self { sequences, vocabulary, options, fixed_shapes: false })
    }

    /// Batches for evaluation: every sequence once, in order, with the same masks each time. The
    /// last batch may have fewer rows, and its last sequence padding.
    ///
    /// # Errors
    /// Options that can't be used, and a file without tokens.
    pub fn held_out(
        shard: Arc<TokenShard>,
        vocabulary: Vocabulary,
        options: MlmOptions,
    ) -> Result<Self> {
        options.check(vocabulary)?;
        let MlmOptions { batch_size, sequence_length, seed, .. } = options;
        let framing = Framing::ClsSep;
        let sequences = Sequences::held_out(shard, framing, sequence_length, batch_size, seed)?;
        Ok(Self { sequences, vocabulary, options, fixed_shapes: false })
    }

    /// The same with as many labels in each batch, so that all have one shape where rows are
    /// packed: where a sequence has fewer tokens that can be masked, those that are missing are
    /// [`IGNORED`] labels of the first position, which no batch masks.
    pub fn with_fixed_shapes(self) -> Self {
        Self { fixed_shapes: true, ..self }
    }

    /// Number of sequences that the documents give.
    pub fn sequence_count(&self) -> usize {
        self.sequences.len()
    }

    /// Positions of each piece in the first sequences.
    pub fn piece_lengths(&self) -> Vec<i64> {
        let lengths = self.sequences.piece_lengths();
        lengths.map(|tokens| Framing::ClsSep.length(tokens as u64) as i64).collect()
    }

    /// Batches that show every sequence once, the last of them perhaps not full.
    pub fn batches_per_epoch(&self) -> u64 {
        self.sequences.batches_per_epoch()
    }

    /// The options they are made with.
    pub fn options(&self) -> &MlmOptions {
        &self.options
    }

    /// Appends one sequence.
    fn push_sequence(&self, shown: Shown, grid: &mut Grid, masked: &mut Masked) -> Result<()> {
        let start = grid.ids.len();
        self.lay_out(shown.sequence, grid)?;
        let mut random = self.sequences.mask_stream(shown);
        let count = self.options.masked_per_sequence();
        // Padding between pieces is special and takes no random numbers, so that the masks are
        // the same in any layout.
        for (position, label) in mask(&mut grid.ids[start..], count, &self.vocabulary, &mut random)
        {
            masked.positions.push((start + position) as i64);
            masked.labels.push(label);
        }
        Ok(())
    }

    /// Appends the positions of one sequence, unmasked.
    fn lay_out(&self, sequence: usize, grid: &mut Grid) -> Result<()> {
        let special = &self.vocabulary.special;
        for piece in self.sequences.pieces(sequence) {
            let last = piece.len() + 1;
            grid.push_piece(last + 1, |ids| {
                ids[0] = i64::from(special.cls);
                ids[last] = i64::from(special.sep);
                self.sequences.shard().read(piece, &mut ids[1..last])
            })?;
        }
        grid.end_sequence();
        Ok(())
    }
}

/// The positions to predict.
#[derive(Default)]
struct Masked {
    positions: Vec<i64>,
    labels: Vec<i64>,
}

impl BatchSource for MlmBatches {
    type Batch = MlmBatch;

    fn batch(&self, index: u64) -> Result<MlmBatch> {
        let columns = self.options.sequence_length;
        let pad = self.vocabulary.special.pad;
        let mut grid = Grid::new(self.options.layout, Padding::Apart, columns, pad.into());
        let mut masked = Masked::default();
        for shown in self.sequences.of_batch(index)? {
            self.push_sequence(shown, &mut grid, &mut masked)?;
        }
        if self.fixed_shapes {
            let count = self.options.batch_size * self.options.masked_per_sequence();
            masked.positions.resize(count.max(masked.positions.len()), 0);
            masked.labels.resize(masked.positions.len(), IGNORED);
        }
        Ok(MlmBatch {
            rows: grid.rows,
            columns,
            input_ids: grid.ids,
            position_ids: grid.positions,
            document_ids: grid.documents,
            masked_positions: masked.positions,
            masked_labels: masked.labels,
            real_tokens: grid.real,
        })
    }
}

/// Hides `count` of the ordinary tokens in `ids`, or all where there are fewer, and returns their
/// positions, ascending, with the tokens that were there.
///
/// Every set of `count` positions is equally likely: each is taken with the probability of those
/// still needed among those still to come (Knuth, The Art of Computer Programming, vol. 2, 3.4.2,
/// algorithm S).
fn mask(
    ids: &mut [i64],
    count: usize,
    vocabulary: &Vocabulary,
    random: &mut impl Rng,
) -> Vec<(usize, i64)> {
    let special = &vocabulary.special;
    let is_ordinary = |id: i64| !special.contains(id as u32);
    let mut left = ids.iter().filter(|&&id| is_ordinary(id)).count() as u32;
    let mut needed = left.min(count as u32);
    let mut masked = Vec::with_capacity(needed as usize);
    for (position, id) in ids.iter_mut().enumerate() {
        if needed == 0 {
            break;
        }
        if !is_ordinary(*id) {
            continue;
        }
        if random.random_range(0..left) < needed {
            masked.push((position, *id));
            *id = replacement(*id, vocabulary, random);
            needed -= 1;
        }
        left -= 1;
    }
    masked
}

/// What stands in the place of a token that is to be predicted.
fn replacement(id: i64, vocabulary: &Vocabulary, random: &mut impl Rng) -> i64 {
    match random.random_range(0..10u32) {
        0..8 => i64::from(vocabulary.special.mask),
        8 => loop {
            let other = random.random_range(0..vocabulary.size as u32);
            if !vocabulary.special.contains(other) {
                break i64::from(other);
            }
        },
        _ => id,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::{Purpose, stream};
    use crate::tokenizer::SpecialTokens;

    const SPECIAL: SpecialTokens = SpecialTokens { pad: 0, unk: 1, cls: 2, sep: 3, mask: 4 };

    #[test]
    fn eighty_percent_are_hidden_ten_random_ten_kept() {
        let vocabulary = Vocabulary { size: 1000, special: SPECIAL };
        let (mut hidden, mut random, mut kept) = (0.0, 0.0, 0.0);
        let mut seen = vec![false; 1000];
        for epoch in 0..400 {
            let mut ids = vec![7i64; 512];
            let mut stream = stream(Purpose::TrainMask, 3, epoch, 0);
            for (position, label) in mask(&mut ids, 77, &vocabulary, &mut stream) {
                assert_eq!(label, 7);
                match ids[position] {
                    4 => hidden += 1.0,
                    7 => kept += 1.0,
                    id => {
                        seen[id as usize] = true;
                        random += 1.0;
                    }
                }
            }
        }
        let total = 400.0 * 77.0;
        assert_eq!(hidden + random + kept, total);
        // Four standard deviations of a share of 30,800: 0.0091 of 0.8, 0.0068 of 0.1.
        assert!((hidden / total - 0.8f64).abs() < 0.0091, "hidden {}", hidden / total);
        assert!((random / total - 0.1f64).abs() < 0.0068, "random {}", random / total);
        assert!((kept / total - 0.1f64).abs() < 0.0068, "kept {}", kept / total);
        assert!(!seen[..5].contains(&true), "a special token as the random one");
        assert!(seen.iter().filter(|&&seen| seen).count() > 900, "random tokens of few kinds");
    }

    #[test]
    fn every_slot_is_equally_likely() {
        let vocabulary = Vocabulary { size: 1000, special: SPECIAL };
        let mut counts = [0u32; 40];
        for epoch in 0..20_000 {
            let mut ids = vec![7i64; 40];
            let mut stream = stream(Purpose::TrainMask, 5, epoch, 0);
            for (position, _) in mask(&mut ids, 6, &vocabulary, &mut stream) {
                counts[position] += 1;
            }
        }
        // 3,000 expected; the standard deviation is 50.
        for (position, count) in counts.into_iter().enumerate() {
            assert!(count.abs_diff(3000) < 250, "position {position}: {count}");
        }
    }

    proptest! {
        #[test]
        fn only_ordinary_tokens_are_masked_and_exactly_as_many_as_asked(
            ids in prop::collection::vec(0i64..12, 0..80),
            count in 0usize..40,
            seed: u64,
        ) {
            let vocabulary = Vocabulary { size: 12, special: SPECIAL };
            let mut changed = ids.clone();
            let mut stream = stream(Purpose::TrainMask, seed, 0, 0);
            let masked = mask(&mut changed, count, &vocabulary, &mut stream);
            let ordinary = ids.iter().filter(|&&id| id > 4).count();
            prop_assert_eq!(masked.len(), count.min(ordinary));
            prop_assert!(masked.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let mut restored = changed;
            for (position, label) in masked {
                prop_assert!(label > 4);
                restored[position] = label;
            }
            prop_assert_eq!(restored, ids);
        }
    }
}
