use std::sync::Arc;

use bert4rs_data::{
    BatchSource, Dataset, Fit, Layout, MaskUnit, MlmBatch, MlmBatches, MlmOptions, TokenBatch,
};
use bert4rs_tensor_core::{Device, Kind};
use tempfile::tempdir;

use crate::sample::{assert_error, dataset};

const OPTIONS: MlmOptions = MlmOptions {
    batch_size: 4,
    sequence_length: 64,
    mask_rate: 0.15,
    layout: Layout::Packed,
    seed: 11,
    unit: MaskUnit::Tokens,
    fit: Fit::EndToEnd,
};

fn train(dataset: &Dataset, options: MlmOptions) -> MlmBatches {
    MlmBatches::train(Arc::clone(&dataset.train), dataset.tokenizer.vocabulary().unwrap(), options)
        .unwrap()
}

fn held_out(dataset: &Dataset, options: MlmOptions) -> MlmBatches {
    MlmBatches::held_out(
        Arc::clone(&dataset.held_out),
        dataset.tokenizer.vocabulary().unwrap(),
        options,
    )
    .unwrap()
}

/// The batch's ids with the labels put back where they were hidden.
fn unmasked(batch: &MlmBatch) -> Vec<i64> {
    let mut ids = batch.input_ids.clone();
    for (&position, &label) in batch.masked_positions.iter().zip(&batch.masked_labels) {
        ids[position as usize] = label;
    }
    ids
}

#[test]
fn a_batch_is_a_function_of_seed_and_number() {
    let folder = tempdir().unwrap();
    let dataset = dataset(folder.path(), 200);
    let (first, second) = (train(&dataset, OPTIONS), train(&dataset, OPTIONS));
    let ahead: Vec<MlmBatch> = (0..60).map(|index| first.batch(index).unwrap()).collect();
    assert!(first.batches_per_epoch() < 30, "the batches below span epochs");
    for index in (0..60).rev() {
        assert_eq!(second.batch(index).unwrap(), ahead[index as usize], "batch {index}");
    }
    let other = train(&dataset, MlmOptions { seed: 12, ..OPTIONS });
    assert_ne!(other.batch(0).unwrap(), ahead[0]);
}

#[test]
fn batches_stay_the_same_from_version_to_version() {
    // Made by this test. A change means that interrupted runs do not go on as they would have.
    let folder = tempdir().unwrap();
    let batch = train(&dataset(folder.path(), 200), OPTIONS).batch(40).unwrap();
    let numbers: Vec<u8> = [&batch.input_ids, &batch.masked_positions, &batch.masked_labels]
        .into_iter()
        .flatten()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    assert_eq!(&blake3::hash(&numbers).to_hex()[..16], "830be1dc156c2ca4");
}

#[test]
fn every_epoch_shows_every_sequence_once_with_other_masks() {
    let folder = tempdir().unwrap();
    let dataset = dataset(folder.path(), 200);
    let batches = train(&dataset, MlmOptions { batch_size: 1, ..OPTIONS });
    let count = batches.sequence_count() as u64;
    let epoch = |number: u64| -> Vec<MlmBatch> {
        let mut epoch: Vec<_> =
            (number * count..(number + 1) * count).map(|k| batches.batch(k).unwrap()).collect();
        epoch.sort_by_key(unmasked);
        epoch
    };
    let (first, second) = (epoch(0), epoch(1));
    assert_eq!(
        first.iter().map(unmasked).collect::<Vec<_>>(),
        second.iter().map(unmasked).collect::<Vec<_>>()
    );
    let same = first.iter().zip(&second).filter(|(a, b)| a.masked_positions == b.masked_positions);
    assert_eq!(same.count(), 0);
}

#[test]
fn slots_hold_framed_pieces_with_their_numbers_and_places() {
    let folder = tempdir().unwrap();
    let dataset = dataset(folder.path(), 200);
    let special = dataset.tokenizer.vocabulary().unwrap().special;
    let [pad, cls, sep] = [special.pad, special.cls, special.sep].map(i64::from);
    let batches = train(&dataset, OPTIONS);
    for index in 0..batches.batches_per_epoch() {
        let batch = batches.batch(index).unwrap();
        assert_eq!((batch.rows, batch.columns), (4, 64));
        let ids = unmasked(&batch);
        let mut real = 0;
        for row in 0..4 {
            let columns = row * 64..(row + 1) * 64;
            let ids = &ids[columns.clone()];
            let documents = &batch.document_ids[columns.clone()];
            let positions = &batch.position_ids[columns];
            let mut expected = (0, 0);
            for column in 0..64 {
                assert_eq!(
                    (documents[column], positions[column]),
                    expected,
                    "column {column} of {ids:?}"
                );
                assert_eq!(ids[column] == cls, expected.1 == 0 && ids[column] != pad);
                real += usize::from(ids[column] != pad);
                let ends = ids[column] == sep;
                expected = if ends { (expected.0 + 1, 0) } else { (expected.0, expected.1 + 1) };
            }
        }
        assert_eq!(batch.real_tokens, real);
    }
}

#[test]
fn each_sequence_has_the_same_number_of_masked_ordinary_tokens() {
    let folder = tempdir().unwrap();
    let dataset = dataset(folder.path(), 200);
    let special = dataset.tokenizer.vocabulary().unwrap().special;
    let batches = train(&dataset, OPTIONS);
    assert_eq!(OPTIONS.masked_per_sequence(), 10);
    for index in 0..50 {
        let batch = batches.batch(index).unwrap();
        assert!(batch.masked_positions.windows(2).all(|pair| pair[0] < pair[1]));
        for row in 0..4 {
            let masked = batch.masked_positions.iter().filter(|&&at| at / 64 == row).count();
            assert_eq!(masked, 10, "batch {index}, row {row}");
        }
        assert!(batch.masked_labels.iter().all(|&label| !special.contains(label as u32)));
    }
}

#[test]
fn held_out_batches_end_and_show_every_token_once() {
    let folder = tempdir().unwrap();
    let dataset = dataset(folder.path(), 200);
    let special = dataset.tokenizer.vocabulary().unwrap().special;
    let batches = held_out(&dataset, OPTIONS);
    let count = batches.batches_per_epoch();
    let mut tokens = Vec::new();
    let mut rows = 0;
    for index in 0..count {
        let batch = batches.batch(index).unwrap();
        assert_eq!(batch, batches.batch(index).unwrap());
        rows += batch.rows;
        let ids = unmasked(&batch).into_iter().map(|id| id as u32);
        tokens.extend(ids.filter(|&id| id == special.unk || !special.contains(id)));
    }
    assert_eq!(rows, batches.sequence_count());
    let shard = &dataset.held_out;
    assert_eq!(tokens, shard.tokens(0..shard.token_count()).unwrap());
    assert_error(batches.batch(count), &[&format!("batch {count}"), &format!("only {count}")]);
    // The seed decides the masks here too, but no order.
    let other = held_out(&dataset, MlmOptions { seed: 12, ..OPTIONS }).batch(0).unwrap();
    assert_eq!(unmasked(&other), unmasked(&batches.batch(0).unwrap()));
    assert_ne!(other.masked_positions, batches.batch(0).unwrap().masked_positions);
}

#[test]
fn a_corpus_shorter_than_a_sequence_is_padded() {
    let folder = tempdir().unwrap();
    let dataset = dataset(folder.path(), 4);
    let options = MlmOptions { sequence_length: 4096, batch_size: 2, ..OPTIONS };
    let batches = train(&dataset, options);
    assert_eq!(batches.sequence_count(), 1);
    let batch = batches.batch(3).unwrap();
    assert_eq!(batch.rows, 2);
    assert!(batch.real_tokens < 1000);
    // Fewer tokens than are to be masked: all of them are.
    let ordinary = dataset.train.token_count();
    assert!(ordinary < options.masked_per_sequence());
    assert_eq!(batch.masked_positions.len(), 2 * ordinary);
}

#[test]
fn options_that_can_not_be_used_are_refused() {
    let folder = tempdir().unwrap();
    let dataset = dataset(folder.path(), 20);
    let make = |options| {
        MlmBatches::train(
            Arc::clone(&dataset.train),
            dataset.tokenizer.vocabulary().unwrap(),
            options,
        )
    };
    assert_error(make(MlmOptions { batch_size: 0, ..OPTIONS }), &["batch size is 0"]);
    assert_error(make(MlmOptions { sequence_length: 7, ..OPTIONS }), &["sequence length is 7"]);
    assert_error(make(MlmOptions { mask_rate: 0.0, ..OPTIONS }), &["mask rate is 0"]);
    assert_error(make(MlmOptions { mask_rate: 1.5, ..OPTIONS }), &["mask rate is 1.5"]);
    assert_error(make(MlmOptions { mask_rate: f64::NAN, ..OPTIONS }), &["mask rate is NaN"]);
    assert_error(make(MlmOptions { mask_rate: 0.001, ..OPTIONS }), &["to mask a position of 64"]);
}

#[test]
fn tensors_hold_the_same_numbers() {
    let folder = tempdir().unwrap();
    let batch = train(&dataset(folder.path(), 100), OPTIONS).batch(0).unwrap();
    let tensors = batch.to_tensors(Device::Cpu).unwrap();
    let check = |name: &str, shape: &[i64], expected: &[i64]| {
        let tensor = tensors.get(name).unwrap();
        assert_eq!((tensor.size().as_slice(), tensor.kind()), (shape, Kind::Int64));
        assert_eq!(Vec::<i64>::try_from(tensor.flatten(0, -1)).unwrap(), expected);
    };
    check("input_ids", &[4, 64], &batch.input_ids);
    check("position_ids", &[4, 64], &batch.position_ids);
    check("document_ids", &[4, 64], &batch.document_ids);
    check("masked_positions", &[40], &batch.masked_positions);
    check("masked_labels", &[40], &batch.masked_labels);
    assert_eq!(tensors.iter().count(), 5);
}

/// The positions of each piece in turn, as `(id, position)`, without padding.
fn piece_slots(batch: &MlmBatch) -> Vec<Vec<(i64, i64)>> {
    let mut pieces = Vec::new();
    for row in 0..batch.rows {
        let row = row * batch.columns..(row + 1) * batch.columns;
        let mut number = -1;
        for index in row.filter(|&index| batch.input_ids[index] != 0) {
            if batch.document_ids[index] != number {
                number = batch.document_ids[index];
                pieces.push(Vec::new());
            }
            pieces.last_mut().unwrap().push((batch.input_ids[index], batch.position_ids[index]));
        }
    }
    pieces
}

#[test]
fn a_padded_batch_holds_the_same_masked_pieces_each_in_its_row() {
    let folder = tempdir().unwrap();
    let dataset = dataset(folder.path(), 200);
    let packed = train(&dataset, OPTIONS);
    let padded = train(&dataset, MlmOptions { layout: Layout::Padded, ..OPTIONS });
    for index in 0..10 {
        let (packed, padded) = (packed.batch(index).unwrap(), padded.batch(index).unwrap());
        assert_eq!(piece_slots(&padded), piece_slots(&packed));
        assert_eq!(piece_slots(&padded).len(), padded.rows, "a piece a row");
        assert_eq!((padded.columns, padded.input_ids.len()), (64, padded.rows * 64));
        assert_eq!(padded.masked_labels, packed.masked_labels);
        assert_eq!(padded.real_tokens, packed.real_tokens);
        let hidden = |batch: &MlmBatch| -> Vec<i64> {
            batch
                .masked_positions
                .iter()
                .map(|&position| batch.input_ids[position as usize])
                .collect()
        };
        assert_eq!(hidden(&padded), hidden(&packed), "masks are where they were");
        let padding =
            (0..padded.input_ids.len()).filter(|&position| padded.input_ids[position] == 0);
        assert!(padding.clone().count() > 0, "pieces shorter than a row");
        for position in padding {
            assert_eq!(padded.document_ids[position], 1, "padding is no part of the piece");
        }
    }
}

#[test]
fn batches_of_fixed_shapes_differ_in_ignored_labels_alone() {
    let folder = tempdir().unwrap();
    let dataset = dataset(folder.path(), 200);
    // So many that sequences of many pieces have fewer ordinary tokens.
    let options = MlmOptions { mask_rate: 0.95, ..OPTIONS };
    let (plain, fixed) = (train(&dataset, options), train(&dataset, options).with_fixed_shapes());
    let mut filled = 0;
    for index in 0..200 {
        let (plain, fixed) = (plain.batch(index).unwrap(), fixed.batch(index).unwrap());
        assert_eq!(fixed.masked_labels.len(), 4 * options.masked_per_sequence());
        assert_eq!((&plain.input_ids, plain.labels()), (&fixed.input_ids, fixed.labels()));
        let count = plain.masked_positions.len();
        assert_eq!(fixed.masked_positions[..count], plain.masked_positions);
        assert!(fixed.masked_positions[count..].iter().all(|&position| position == 0));
        assert!(plain.masked_positions[0] > 0, "the first position is never masked");
        filled += fixed.masked_labels.len() - count;
    }
    assert!(filled > 0, "the test shows nothing");
}
