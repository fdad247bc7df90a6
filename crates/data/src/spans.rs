//! Span corruption: which tokens T5 is to fill in, and the batches made of them.
//!
//! Raffel et al. 2019, <https://arxiv.org/abs/1910.10683>: 15% of a text's tokens are noise, in
//! spans of 3 tokens on average ([`Noise`] says which). In the encoder's input each span is one
//! sentinel; the decoder's target is each sentinel with its span. Text and noise take turns, text
//! first.
//!
//! Each piece of a document is corrupted by itself, with sentinels from the first one on, and ends
//! with the end of text on both sides. Pieces are so long that, corrupted, they fill a sequence of
//! the encoder to the last position.

use std::sync::Arc;

use rand::Rng;

use crate::batch::{IGNORED, SpanBatch};
use crate::denoisers::{Denoiser, Denoising, UL2};
use crate::error::{Error, Result};
use crate::layout::{Grid, Layout, Padding};
use crate::mixture::Mixture;
use crate::noise::Noise;
use crate::packing::{Fit, Framing, PackingReport};
use crate::prefetch::BatchSource;
use crate::sequences::{SequenceOptions, Sequences, Shown};
use crate::shard::TokenStore;
use crate::tokenizer::SpanTokens;
use crate::unigram;

/// The decoder's rows are a multiple of this, which suits matrix units and keeps shapes few.
const TARGET_STEP: usize = 8;

/// How batches are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpanOptions {
    /// Sequences of a batch.
    pub batch_size: usize,
    /// Positions of a sequence of the encoder.
    pub sequence_length: usize,
    /// What is to be filled in; of UL2's mixture, how much text a sequence holds.
    pub noise: Noise,
    /// Whether that is all, or one of UL2's denoisers.
    pub denoising: Denoising,
    /// How the pieces of a sequence lie in rows.
    pub layout: Layout,
    /// Where documents are split.
    pub fit: Fit,
    /// Decides order and noise.
    pub seed: u64,
}

/// Batches over the documents of a token file. Each is a pure function of the options and its
/// number.
#[derive(Debug)]
pub struct SpanBatches {
    sequences: Sequences,
    tokens: SpanTokens,
    options: SpanOptions,
    /// Positions of the decoder's rows at least.
    least_columns: usize,
}

/// A piece of a document, corrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Corrupted {
    source: Vec<i64>,
    target: Vec<i64>,
}

impl SpanBatches {
    /// Endless full batches for training: each epoch shows every sequence once, in another order
    /// and with other noise. A last sequence that the documents don't fill is left out, unless it
    /// is the only one.
    ///
    /// # Errors
    /// Options that can't be used, a sequence with more spans than there are sentinels, and a
    /// file without tokens.
    pub fn train(
        corpora: impl Into<Mixture>,
        tokens: SpanTokens,
        options: SpanOptions,
    ) -> Result<Self> {
        let of_sequences = of_sequences(&tokens, &options)?;
        let sequences = Sequences::train(&corpora.into(), of_sequences)?;
        Ok(Self { sequences, tokens, options, least_columns: 0 })
    }

    /// Batches for evaluation: every sequence once, in order, with the same noise each time. The
    /// last batch may have fewer rows, and its last sequence padding.
    ///
    /// # Errors
    /// As [`train`](Self::train).
    pub fn held_out(
        shard: Arc<TokenStore>,
        tokens: SpanTokens,
        options: SpanOptions,
    ) -> Result<Self> {
        let sequences = Sequences::held_out(shard, of_sequences(&tokens, &options)?)?;
        Ok(Self { sequences, tokens, options, least_columns: 0 })
    }

    /// The same with the decoder's rows as long in each batch as the longest of all needs, so that
    /// all have one shape where rows are packed.
    pub fn with_fixed_shapes(mut self) -> Self {
        let length = |piece: std::ops::Range<usize>| self.options.noise.target_length(piece.len());
        let width = |shown| self.width(self.sequences.pieces(shown).map(length));
        self.least_columns = self.sequences.all().map(width).max().unwrap_or(0);
        self
    }

    /// Positions of each piece in the first sequences, in the encoder and in the decoder.
    pub fn piece_lengths(&self) -> Vec<(i64, i64)> {
        let noise = self.options.noise;
        let lengths = self.sequences.piece_lengths();
        let of = |tokens| (noise.source_length(tokens) as i64, noise.target_length(tokens) as i64);
        lengths.map(of).collect()
    }

    /// Batches that show every sequence once, the last of them perhaps not full.
    pub fn batches_per_epoch(&self) -> u64 {
        self.sequences.batches_per_epoch()
    }

    /// Entropy of the targets' frequencies, in nats, where that of the text's is `of_text`:
    /// sentinels and ends are targets too.
    pub fn target_entropy(&self, of_text: f64) -> f64 {
        let mut text = 0;
        let mut others = vec![0; self.tokens.sentinels.len() + 1];
        for shown in self.sequences.all() {
            let mut random = self.sequences.mask_stream(shown);
            for piece in self.sequences.pieces(shown) {
                let (noise, spans) = self.denoiser(piece.len(), &mut random).counts(piece.len());
                text += noise as u64;
                others[..=spans].iter_mut().for_each(|count| *count += 1);
            }
        }
        unigram::entropy_with(of_text, text, &others)
    }

    /// What packing did to the documents of each corpus.
    pub fn packing_reports(&self) -> Vec<PackingReport> {
        self.sequences.reports()
    }

    /// What is to be learned from a piece of `tokens` tokens.
    fn denoiser(&self, tokens: usize, random: &mut impl Rng) -> Denoiser {
        match self.options.denoising {
            Denoising::Spans => Denoiser::Spans(self.options.noise),
            Denoising::Ul2 => Denoiser::choose(tokens, self.tokens.sentinels.len(), random),
        }
    }

    /// The corrupted pieces of a sequence.
    fn corrupted(&self, shown: Shown) -> Result<Vec<Corrupted>> {
        let mut random = self.sequences.mask_stream(shown);
        let corrupt = |piece: std::ops::Range<usize>| {
            let mut text = vec![0; piece.len()];
            self.sequences.store(shown.part).read(piece, &mut text)?;
            let denoiser = self.denoiser(text.len(), &mut random);
            let lengths = denoiser.draw(text.len(), &mut random);
            Ok(corrupt(&text, &lengths, &self.tokens))
        };
        self.sequences.pieces(shown).map(corrupt).collect()
    }

    /// Length of the decoder's rows, for all of these sequences.
    fn target_columns(&self, sequences: &[Vec<Corrupted>]) -> usize {
        let width = |pieces: &Vec<Corrupted>| self.width(pieces.iter().map(|p| p.target.len()));
        let widest = sequences.iter().map(width).max().unwrap_or(0);
        widest.max(self.least_columns).next_multiple_of(TARGET_STEP)
    }

    /// What targets of these lengths, of one sequence, need of the decoder's rows.
    fn width(&self, lengths: impl Iterator<Item = usize>) -> usize {
        match self.options.layout {
            Layout::Packed => lengths.sum(),
            Layout::Padded => lengths.max().unwrap_or(0),
        }
    }
}

/// How sequences are filled, if there are enough sentinels for it.
fn of_sequences(tokens: &SpanTokens, options: &SpanOptions) -> Result<SequenceOptions> {
    options.noise.check()?;
    if options.denoising == Denoising::Ul2 && UL2[0] != Denoiser::Spans(options.noise) {
        let expected = "0.15 with a mean span of 3, which UL2's denoisers take the place of";
        return Err(Error::setting("the share of noise", options.noise.rate, expected));
    }
    let longest = options.noise.max_tokens(options.sequence_length);
    let (_, spans) = options.noise.counts(longest);
    if spans > tokens.sentinels.len() {
        let expected = format!(
            "shorter: it has {spans} spans, and the tokenizer {} sentinels (or a longer mean span)",
            tokens.sentinels.len()
        );
        return Err(Error::setting("the sequence length", options.sequence_length, expected));
    }
    let &SpanOptions { batch_size, sequence_length: length, fit, seed, .. } = options;
    Ok(SequenceOptions { framing: Framing::Spans(options.noise), length, batch_size, fit, seed })
}

/// `text` cut into parts of text and noise in turn: each noise is one sentinel in the source, and
/// follows its sentinel in the target.
fn corrupt(text: &[i64], lengths: &[usize], tokens: &SpanTokens) -> Corrupted {
    let (mut source, mut target, mut rest) = (Vec::new(), Vec::new(), text);
    for (turn, &sentinel) in lengths.chunks(2).zip(&tokens.sentinels) {
        let (kept, after) = rest.split_at(turn[0]);
        let (noise, after) = after.split_at(turn[1]);
        source.extend_from_slice(kept);
        source.push(sentinel.into());
        target.push(sentinel.into());
        target.extend_from_slice(noise);
        rest = after;
    }
    source.push(tokens.end.into());
    target.push(tokens.end.into());
    Corrupted { source, target }
}

impl BatchSource for SpanBatches {
    type Batch = SpanBatch;

    fn batch(&self, index: u64) -> Result<SpanBatch> {
        let shown = self.sequences.of_batch(index)?;
        let mut part_tokens = vec![0; self.sequences.part_count()];
        let mut sequences = Vec::new();
        for shown in shown {
            let pieces = self.corrupted(shown)?;
            let tokens = |piece: &Corrupted| (piece.source.len() + piece.target.len()) as u64;
            part_tokens[shown.part] += pieces.iter().map(tokens).sum::<u64>();
            sequences.push(pieces);
        }
        let (layout, pad) = (self.options.layout, i64::from(self.tokens.pad));
        let (columns, target_columns) =
            (self.options.sequence_length, self.target_columns(&sequences));
        let mut source = Grid::new(layout, Padding::Apart, columns, pad);
        // Padding of the decoder, which nothing before it sees, must see some of the encoder.
        let mut decoder = Grid::new(layout, Padding::WithLast, target_columns, pad);
        let mut labels = Grid::new(layout, Padding::WithLast, target_columns, IGNORED);
        for pieces in &sequences {
            for piece in pieces {
                source.push_piece(piece.source.len(), |ids| {
                    ids.copy_from_slice(&piece.source);
                    Ok(())
                })?;
                let target = &piece.target;
                labels.push_piece(target.len(), |ids| {
                    ids.copy_from_slice(target);
                    Ok(())
                })?;
                decoder.push_piece(target.len(), |ids| {
                    ids[0] = pad;
                    ids[1..].copy_from_slice(&target[..target.len() - 1]);
                    Ok(())
                })?;
            }
            source.end_sequence();
            decoder.end_sequence();
            labels.end_sequence();
        }
        Ok(SpanBatch {
            rows: source.rows,
            columns,
            target_columns,
            input_ids: source.ids,
            document_ids: source.documents,
            decoder_input_ids: decoder.ids,
            decoder_document_ids: decoder.documents,
            labels: labels.ids,
            real_tokens: source.real + decoder.real,
            part_tokens,
        })
    }
}
