//! Causal language modelling: every token predicts the next of its document.
//!
//! A piece of a document is `<|endoftext|> tokens`, so that the first token is predicted too, and
//! a model can begin from nothing. What is to follow the last token is the end of the text if the
//! document ends there, else the document's next token, which another sequence begins with. So
//! each position of a piece has a label.

use std::sync::Arc;

use crate::batch::{CausalBatch, IGNORED};
use crate::error::Result;
use crate::layout::{Grid, Layout, Padding};
use crate::mixture::Mixture;
use crate::packing::{Fit, Framing, PackingReport};
use crate::prefetch::BatchSource;
use crate::sequences::{SequenceOptions, Sequences, Shown};
use crate::shard::TokenStore;

/// How batches are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CausalOptions {
    /// Sequences of a batch.
    pub batch_size: usize,
    /// Positions of a sequence.
    pub sequence_length: usize,
    /// How the pieces of a sequence lie in rows.
    pub layout: Layout,
    /// Where documents are split.
    pub fit: Fit,
    /// Decides the order.
    pub seed: u64,
}

/// Batches over the documents of a token file. Each is a pure function of the options and its
/// number.
#[derive(Debug)]
pub struct CausalBatches {
    sequences: Sequences,
    end_of_text: u32,
    options: CausalOptions,
}

impl CausalBatches {
    /// Endless full batches for training: each epoch shows every sequence once, in another order.
    /// A last sequence that the documents don't fill is left out, unless it is the only one.
    ///
    /// # Errors
    /// Options that can't be used, and a file without tokens.
    pub fn train(
        tokens: impl Into<Mixture>,
        end_of_text: u32,
        options: CausalOptions,
    ) -> Result<Self> {
        let sequences = Sequences::train(&tokens.into(), of_sequences(&options))?;
        Ok(Self { sequences, end_of_text, options })
    }

    /// Batches for evaluation: every sequence once, in order. The last batch may have fewer rows,
    /// and its last sequence padding.
    ///
    /// # Errors
    /// As [`train`](Self::train).
    pub fn held_out(
        shard: Arc<TokenStore>,
        end_of_text: u32,
        options: CausalOptions,
    ) -> Result<Self> {
        let sequences = Sequences::held_out(shard, of_sequences(&options))?;
        Ok(Self { sequences, end_of_text, options })
    }

    /// Positions of each piece in the first sequences.
    pub fn piece_lengths(&self) -> Vec<i64> {
        let lengths = self.sequences.piece_lengths();
        lengths.map(|tokens| Framing::Bos.length(tokens as u64) as i64).collect()
    }

    /// Batches that show every sequence once, the last of them perhaps not full.
    pub fn batches_per_epoch(&self) -> u64 {
        self.sequences.batches_per_epoch()
    }

    /// What packing did to the documents of each corpus.
    pub fn packing_reports(&self) -> Vec<PackingReport> {
        self.sequences.reports()
    }

    /// Appends one sequence: what the model sees to `grid`, what is to follow to `next`.
    fn push_sequence(&self, shown: Shown, grid: &mut Grid, next: &mut Grid) -> Result<()> {
        let end = i64::from(self.end_of_text);
        let shard = self.sequences.store(shown.part);
        for piece in self.sequences.pieces(shown) {
            let (start, stop) = (piece.start, piece.end);
            let ends = shard.offsets().binary_search(&(stop as u64)).is_ok();
            grid.push_piece(piece.len() + 1, |ids| {
                ids[0] = end;
                shard.read(piece, &mut ids[1..])
            })?;
            next.push_piece(stop - start + 1, |ids| {
                let seen = if ends { stop } else { stop + 1 };
                ids[seen - start..].fill(end);
                shard.read(start..seen, &mut ids[..seen - start])
            })?;
        }
        grid.end_sequence();
        next.end_sequence();
        Ok(())
    }
}

fn of_sequences(options: &CausalOptions) -> SequenceOptions {
    let &CausalOptions { batch_size, sequence_length: length, fit, seed, .. } = options;
    SequenceOptions { framing: Framing::Bos, length, batch_size, fit, seed }
}

impl BatchSource for CausalBatches {
    type Batch = CausalBatch;

    fn batch(&self, index: u64) -> Result<CausalBatch> {
        let CausalOptions { sequence_length: columns, layout, .. } = self.options;
        let mut grid = Grid::new(layout, Padding::Apart, columns, self.end_of_text.into());
        let mut next = Grid::new(layout, Padding::Apart, columns, IGNORED);
        let mut part_tokens = vec![0; self.sequences.part_count()];
        for shown in self.sequences.of_batch(index)? {
            let before = grid.real;
            self.push_sequence(shown, &mut grid, &mut next)?;
            part_tokens[shown.part] += (grid.real - before) as u64;
        }
        Ok(CausalBatch {
            rows: grid.rows,
            columns,
            input_ids: grid.ids,
            position_ids: grid.positions,
            document_ids: grid.documents,
            next_ids: next.ids,
            real_tokens: grid.real,
            part_tokens,
        })
    }
}
