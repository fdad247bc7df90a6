use std::sync::Arc;

use bert4rs_data::batch::IGNORED;
use bert4rs_data::packing::{Framing, LastSequence, Packing};
use bert4rs_data::{
    BatchSource, Dataset, Denoising, Fit, Layout, Noise, Objective, SpanBatch, SpanBatches,
    SpanOptions, SpanTokens, TokenBatch,
};
use proptest::prelude::*;
use tempfile::tempdir;

use crate::sample::{assert_error, dataset_for};

const NOISE: Noise = Noise { rate: 0.15, mean_span: 3.0 };
const OPTIONS: SpanOptions = SpanOptions {
    batch_size: 4,
    sequence_length: 64,
    noise: NOISE,
    layout: Layout::Packed,
    seed: 11,
    denoising: Denoising::Spans,
    fit: Fit::EndToEnd,
};

fn tokens(dataset: &Dataset) -> SpanTokens {
    dataset.tokenizer.span_tokens().unwrap()
}

fn train(dataset: &Dataset, options: SpanOptions) -> SpanBatches {
    SpanBatches::train(Arc::clone(&dataset.train), tokens(dataset), options).unwrap()
}

fn held_out(dataset: &Dataset) -> SpanBatches {
    SpanBatches::held_out(Arc::clone(&dataset.train), tokens(dataset), OPTIONS).unwrap()
}

/// One side of a piece: what stands in the positions of one number in one row.
fn pieces(ids: &[i64], documents: &[i64], columns: usize, padding: i64) -> Vec<Vec<i64>> {
    let mut pieces = Vec::new();
    for (ids, documents) in ids.chunks(columns).zip(documents.chunks(columns)) {
        let mut number = -1;
        for (&id, &document) in ids.iter().zip(documents).filter(|(id, _)| **id != padding) {
            if document != number {
                number = document;
                pieces.push(Vec::new());
            }
            pieces.last_mut().unwrap().push(id);
        }
    }
    pieces
}

/// Source and target of each piece in turn.
fn corrupted(batch: &SpanBatch) -> Vec<(Vec<i64>, Vec<i64>)> {
    let source = pieces(&batch.input_ids, &batch.document_ids, batch.columns, 0);
    let documents = &batch.decoder_document_ids;
    let target = pieces(&batch.labels, documents, batch.target_columns, IGNORED);
    assert_eq!(source.len(), target.len(), "each piece has both sides");
    source.into_iter().zip(target).collect()
}

/// The text that a piece was made from: each sentinel replaced by its span.
fn restored(source: &[i64], target: &[i64], tokens: &SpanTokens) -> Vec<i64> {
    let is_sentinel = |id: i64| tokens.sentinels.contains(&(id as u32));
    let (end, target) = target.split_last().unwrap();
    assert_eq!(*end, i64::from(tokens.end));
    let (end, source) = source.split_last().unwrap();
    assert_eq!(*end, i64::from(tokens.end));
    let mut spans = target.split(|&id| is_sentinel(id)).skip(1);
    let mut used = 0;
    let text = source.iter().flat_map(|&id| {
        if !is_sentinel(id) {
            return vec![id];
        }
        assert_eq!(id, i64::from(tokens.sentinels[used]), "sentinels in their order");
        used += 1;
        spans.next().unwrap().to_vec()
    });
    let text: Vec<i64> = text.collect();
    assert_eq!(spans.next(), None, "no span is left over");
    let order: Vec<i64> = target.iter().copied().filter(|&id| is_sentinel(id)).collect();
    let expected: Vec<i64> = tokens.sentinels[..used].iter().map(|&id| id.into()).collect();
    assert_eq!(order, expected);
    text
}

#[test]
fn lengths_are_those_of_the_authors() {
    let table = include_str!("../vectors/span_counts.csv");
    assert_eq!(table.lines().count(), 236);
    for line in table.lines().skip(1) {
        let numbers: Vec<f64> = line.split(',').map(|number| number.parse().unwrap()).collect();
        let noise = Noise { rate: numbers[1], mean_span: numbers[2] };
        let length = numbers[0] as usize;
        let (tokens, spans) = noise.counts(length);
        let found = [tokens, spans, noise.source_length(length), noise.target_length(length)];
        assert_eq!(found.map(|number| number as f64), numbers[3..], "{line}");
    }
    // As the authors' `random_spans_helper` finds for sequences of 512.
    assert_eq!(Framing::Spans(NOISE).max_tokens(512), 568);
    assert_eq!(NOISE.target_length(568), 114);
}

#[test]
fn a_batch_is_a_function_of_seed_and_number() {
    let folder = tempdir().unwrap();
    let dataset = dataset_for(Objective::Spans, folder.path(), 200);
    let (first, second) = (train(&dataset, OPTIONS), train(&dataset, OPTIONS));
    let ahead: Vec<SpanBatch> = (0..40).map(|index| first.batch(index).unwrap()).collect();
    for index in (0..40).rev() {
        assert_eq!(second.batch(index).unwrap(), ahead[index as usize], "batch {index}");
    }
    let other = train(&dataset, SpanOptions { seed: 12, ..OPTIONS });
    assert_ne!(other.batch(0).unwrap(), ahead[0]);
}

#[test]
fn inputs_and_targets_hold_the_text_once() {
    let folder = tempdir().unwrap();
    let dataset = dataset_for(Objective::Spans, folder.path(), 200);
    let (batches, tokens) = (held_out(&dataset), tokens(&dataset));
    let mut text = Vec::new();
    for index in 0..batches.batches_per_epoch() {
        for (source, target) in corrupted(&batches.batch(index).unwrap()) {
            let piece = restored(&source, &target, &tokens);
            assert_eq!(source.len(), NOISE.source_length(piece.len()));
            assert_eq!(target.len(), NOISE.target_length(piece.len()), "an exact share is noise");
            text.extend(piece.into_iter().map(|id| id as u32));
        }
    }
    let shard = &dataset.train;
    assert_eq!(text, shard.tokens(0..shard.token_count()).unwrap());
}

#[test]
fn sequences_of_the_encoder_are_full() {
    let folder = tempdir().unwrap();
    let dataset = dataset_for(Objective::Spans, folder.path(), 200);
    let batches = train(&dataset, OPTIONS);
    for index in 0..10 {
        let batch = batches.batch(index).unwrap();
        for row in batch.input_ids.chunks(batch.columns) {
            let padding = row.iter().filter(|&&id| id == 0).count();
            assert!(padding < 8, "{padding} positions of padding, too few for a piece");
        }
        assert_eq!(batch.target_columns % 8, 0);
        let (source, target) = (&batch.input_ids, &batch.labels);
        let real = source.iter().filter(|&&id| id != 0).count()
            + target.iter().filter(|&&id| id != IGNORED).count();
        assert_eq!(batch.real_tokens, real);
    }
}

#[test]
fn the_decoder_sees_labels_one_place_later_within_each_piece() {
    let folder = tempdir().unwrap();
    let dataset = dataset_for(Objective::Spans, folder.path(), 100);
    let batch = train(&dataset, OPTIONS).batch(3).unwrap();
    let columns = batch.target_columns;
    for row in 0..batch.rows {
        let row = row * columns..(row + 1) * columns;
        let (seen, labels) = (&batch.decoder_input_ids[row.clone()], &batch.labels[row.clone()]);
        let documents = &batch.decoder_document_ids[row];
        for position in 0..columns {
            let begins = position == 0 || documents[position] != documents[position - 1];
            if labels[position] != IGNORED {
                let expected = if begins { 0 } else { labels[position - 1] };
                assert_eq!(seen[position], expected, "position {position}");
            }
        }
        let encoder = &batch.document_ids[..];
        assert!(documents.iter().all(|number| encoder.contains(number)), "it sees some of it");
    }
}

#[test]
fn a_padded_batch_holds_the_same_pieces_each_in_its_row() {
    let folder = tempdir().unwrap();
    let dataset = dataset_for(Objective::Spans, folder.path(), 200);
    let packed = train(&dataset, OPTIONS);
    let padded = train(&dataset, SpanOptions { layout: Layout::Padded, ..OPTIONS });
    for index in 0..5 {
        let (packed, padded) = (packed.batch(index).unwrap(), padded.batch(index).unwrap());
        assert_eq!(corrupted(&padded), corrupted(&packed));
        assert_eq!(corrupted(&padded).len(), padded.rows);
        assert_eq!(padded.real_tokens, packed.real_tokens);
    }
}

#[test]
fn what_can_not_be_corrupted_is_refused() {
    let folder = tempdir().unwrap();
    let dataset = dataset_for(Objective::Spans, folder.path(), 20);
    let make = |options| SpanBatches::train(Arc::clone(&dataset.train), tokens(&dataset), options);
    let rate = |rate| SpanOptions { noise: Noise { rate, ..NOISE }, ..OPTIONS };
    assert_error(make(rate(0.0)), &["share of noise is 0"]);
    assert_error(make(rate(0.6)), &["at most 0.5"]);
    let mean = Noise { mean_span: 0.5, ..NOISE };
    assert_error(make(SpanOptions { noise: mean, ..OPTIONS }), &["mean span is 0.5"]);
    let long = SpanOptions { sequence_length: 2048, ..OPTIONS };
    assert_error(make(long), &["114 spans", "100 sentinels"]);
}

proptest! {
    #[test]
    fn pieces_fill_sequences_to_the_last_place(
        lengths in prop::collection::vec(1u64..200, 1..30),
        positions in 8usize..120,
        rate in 0.02f64..0.5,
        mean_span in 1.0f64..9.0,
    ) {
        let offsets: Vec<u64> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |end, length| { *end += length; Some(*end) }))
            .collect();
        let noise = Noise { rate, mean_span };
        let framing = Framing::Spans(noise);
        let packing =
            Packing::new(&offsets, framing, positions, Fit::EndToEnd, LastSequence::Pad).unwrap();
        let mut next = 0;
        for sequence in 0..packing.len() {
            let mut left = positions as i64;
            for piece in packing.pieces(&offsets, sequence) {
                prop_assert_eq!(piece.start, next);
                next = piece.end;
                left -= noise.source_length(piece.len()) as i64;
                // A piece that its document does not end fills what is left, but for a position
                // where another token would bring another sentinel.
                if !offsets.contains(&(next as u64)) {
                    prop_assert!((0..=1).contains(&left), "{} positions left", left);
                }
            }
            prop_assert!(left >= 0);
            prop_assert!(left < 8 || sequence + 1 == packing.len());
        }
        prop_assert_eq!(next as u64, offsets[lengths.len()]);
    }
}

#[test]
fn batches_of_fixed_shapes_have_one_and_show_the_same() {
    let folder = tempdir().unwrap();
    let dataset = dataset_for(Objective::Spans, folder.path(), 200);
    let options = SpanOptions { batch_size: 1, sequence_length: 400, ..OPTIONS };
    let (plain, fixed) = (train(&dataset, options), train(&dataset, options).with_fixed_shapes());
    let shape = |batch: &SpanBatch| (batch.rows, batch.columns, batch.target_columns);
    let (mut of_plain, mut of_fixed) = (Vec::new(), Vec::new());
    for index in 0..200 {
        let (plain, fixed) = (plain.batch(index).unwrap(), fixed.batch(index).unwrap());
        of_plain.push(shape(&plain));
        of_fixed.push(shape(&fixed));
        assert_eq!((&plain.input_ids, plain.labels()), (&fixed.input_ids, fixed.labels()));
    }
    for shapes in [&mut of_plain, &mut of_fixed] {
        shapes.sort_unstable();
        shapes.dedup();
    }
    assert_eq!(of_fixed.len(), 1, "{of_fixed:?}");
    assert!(of_plain.len() > 1, "the test shows nothing: {of_plain:?}");
    assert_eq!(of_plain.last(), of_fixed.last(), "no longer than the longest needs");
}
