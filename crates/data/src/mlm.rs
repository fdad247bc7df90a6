//! Masked language modelling: which positions are hidden, and the batches made of them.
//!
//! Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>, section 3.1: of the tokens, 15% are to
//! be predicted; of these, 80% are replaced by `[MASK]`, 10% by a random token, 10% are kept.

use std::ops::Range;
use std::sync::Arc;

use rand::Rng;

use crate::batch::{IGNORED, MlmBatch};
use crate::error::{Error, Result};
use crate::layout::{Grid, Layout, Padding};
use crate::masking::{MaskUnit, rate_at, spans, whole_words};
use crate::mixture::Mixture;
use crate::packing::{Fit, Framing, PackingReport};
use crate::prefetch::BatchSource;
use crate::sequences::{SequenceOptions, Sequences, Shown};
use crate::shard::TokenStore;
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
    /// What is hidden together.
    pub unit: MaskUnit,
    /// How the pieces of a sequence lie in rows.
    pub layout: Layout,
    /// Where documents are split.
    pub fit: Fit,
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

    fn of_sequences(&self) -> SequenceOptions {
        let &Self { batch_size, sequence_length: length, fit, seed, .. } = self;
        SequenceOptions { framing: Framing::ClsSep, length, batch_size, fit, seed }
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
    /// Which tokens go on with the word before them.
    continuations: Arc<[bool]>,
    /// Where the mask rate changes: its last value, of how many batches, and how many of these come
    /// before the first here.
    schedule: Option<(f64, u64, u64)>,
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
        tokens: impl Into<Mixture>,
        vocabulary: Vocabulary,
        options: MlmOptions,
    ) -> Result<Self> {
        options.check(vocabulary)?;
        let sequences = Sequences::train(&tokens.into(), options.of_sequences())?;
        Ok(Self::of(sequences, vocabulary, options))
    }

    /// Batches for evaluation: every sequence once, in order, with the same masks each time. The
    /// last batch may have fewer rows, and its last sequence padding.
    ///
    /// # Errors
    /// Options that can't be used, and a file without tokens.
    pub fn held_out(
        shard: Arc<TokenStore>,
        vocabulary: Vocabulary,
        options: MlmOptions,
    ) -> Result<Self> {
        options.check(vocabulary)?;
        let sequences = Sequences::held_out(shard, options.of_sequences())?;
        Ok(Self::of(sequences, vocabulary, options))
    }

    fn of(sequences: Sequences, vocabulary: Vocabulary, options: MlmOptions) -> Self {
        let continuations = Arc::from([]);
        Self { sequences, vocabulary, continuations, schedule: None, options, fixed_shapes: false }
    }

    /// The same with as many labels in each batch, so that all have one shape where rows are
    /// packed: where a sequence has fewer tokens that can be masked, those that are missing are
    /// [`IGNORED`] labels of the first position, which no batch masks.
    pub fn with_fixed_shapes(self) -> Self {
        Self { fixed_shapes: true, ..self }
    }

    /// Tells which tokens go on with the word before them, as
    /// [`TextTokenizer::continuations`](crate::TextTokenizer::continuations) has it, for words and
    /// spans; without, each token is a word.
    pub fn with_words(self, continuations: Arc<[bool]>) -> Self {
        Self { continuations, ..self }
    }

    /// The same with a mask rate that goes from that of the options to `last` in a straight line,
    /// over `batches` batches, of which `before` come before the first of these.
    ///
    /// # Errors
    /// A rate that can't be used.
    pub fn with_mask_rate_to(self, last: f64, batches: u64, before: u64) -> Result<Self> {
        MlmOptions { mask_rate: last, ..self.options }.check(self.vocabulary)?;
        Ok(Self { schedule: Some((last, batches, before)), ..self })
    }

    /// What packing did to the documents of each corpus.
    pub fn packing_reports(&self) -> Vec<PackingReport> {
        self.sequences.reports()
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

    /// The share to predict in a batch.
    fn mask_rate(&self, batch: u64) -> f64 {
        let first = self.options.mask_rate;
        self.schedule.map_or(first, |(last, batches, before)| {
            rate_at(batch.saturating_add(before), batches, first, last)
        })
    }

    /// Appends one sequence, of whose positions the share `rate` is to be predicted.
    fn push_sequence(
        &self,
        shown: Shown,
        rate: f64,
        grid: &mut Grid,
        masked: &mut Masked,
    ) -> Result<()> {
        let (start, before) = (grid.ids.len(), grid.real);
        self.lay_out(shown, grid)?;
        let mut random = self.sequences.mask_stream(shown);
        // Of sequences that documents don't fill, a share of what they hold.
        let positions = match self.sequences.fit() {
            Fit::EndToEnd => self.options.sequence_length,
            Fit::Best => grid.real - before,
        };
        let count = ((rate * positions as f64).round() as usize).max(1);
        // Padding between pieces is special and takes no random numbers, so that the masks are
        // the same in any layout.
        let (ids, vocabulary) = (&mut grid.ids[start..], &self.vocabulary);
        let hidden = match self.options.unit {
            MaskUnit::Tokens => mask(ids, count, vocabulary, &mut random),
            MaskUnit::Words => {
                let groups = whole_words(&self.words(ids), count, &mut random);
                mask_groups(ids, groups, vocabulary, &mut random)
            }
            MaskUnit::Spans => {
                let groups = spans(&self.words(ids), count, &mut random);
                mask_groups(ids, groups, vocabulary, &mut random)
            }
        };
        for (position, label) in hidden {
            masked.positions.push((start + position) as i64);
            masked.labels.push(label);
        }
        Ok(())
    }

    /// The words in `ids`: runs of ordinary tokens, of which each but the first goes on with the
    /// word.
    fn words(&self, ids: &[i64]) -> Vec<Range<usize>> {
        let special = &self.vocabulary.special;
        let mut words: Vec<Range<usize>> = Vec::new();
        for (position, &id) in ids.iter().enumerate() {
            if special.contains(id as u32) {
                continue;
            }
            let goes_on = self.continuations.get(id as usize).is_some_and(|goes_on| *goes_on);
            match words.last_mut() {
                Some(word) if goes_on && word.end == position => word.end += 1,
                _ => words.push(position..position + 1),
            }
        }
        words
    }

    /// Appends the positions of one sequence, unmasked.
    fn lay_out(&self, shown: Shown, grid: &mut Grid) -> Result<()> {
        let special = &self.vocabulary.special;
        for piece in self.sequences.pieces(shown) {
            let last = piece.len() + 1;
            grid.push_piece(last + 1, |ids| {
                ids[0] = i64::from(special.cls);
                ids[last] = i64::from(special.sep);
                self.sequences.store(shown.part).read(piece, &mut ids[1..last])
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
        let mut part_tokens = vec![0; self.sequences.part_count()];
        let rate = self.mask_rate(index);
        for shown in self.sequences.of_batch(index)? {
            let before = grid.real;
            self.push_sequence(shown, rate, &mut grid, &mut masked)?;
            part_tokens[shown.part] += (grid.real - before) as u64;
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
            part_tokens,
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

/// Hides groups of positions, as [`mask`] does: of a group, all tokens are hidden, replaced or
/// kept.
fn mask_groups(
    ids: &mut [i64],
    groups: Vec<Vec<usize>>,
    vocabulary: &Vocabulary,
    random: &mut impl Rng,
) -> Vec<(usize, i64)> {
    let mut masked = Vec::new();
    for group in groups {
        let kind = random.random_range(0..10u32);
        for position in group {
            masked.push((position, ids[position]));
            ids[position] = replace_by(kind, ids[position], vocabulary, random);
        }
    }
    masked
}

/// What stands in the place of a token that is to be predicted.
fn replacement(id: i64, vocabulary: &Vocabulary, random: &mut impl Rng) -> i64 {
    let kind = random.random_range(0..10u32);
    replace_by(kind, id, vocabulary, random)
}

/// What `kind`, a number below 10, puts in the place of a token.
fn replace_by(kind: u32, id: i64, vocabulary: &Vocabulary, random: &mut impl Rng) -> i64 {
    match kind {
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
