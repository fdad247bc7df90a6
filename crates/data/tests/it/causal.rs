use std::sync::Arc;

use bert4rs_data::batch::IGNORED;
use bert4rs_data::{
    BatchSource, CausalBatch, CausalBatches, CausalOptions, Dataset, Fit, Layout, Objective,
};
use tempfile::tempdir;

use crate::sample::dataset_for;

const OPTIONS: CausalOptions = CausalOptions {
    batch_size: 4,
    sequence_length: 64,
    layout: Layout::Packed,
    fit: Fit::EndToEnd,
    seed: 11,
};

fn train(dataset: &Dataset, options: CausalOptions) -> CausalBatches {
    let end = dataset.tokenizer.end_of_text().unwrap();
    CausalBatches::train(Arc::clone(&dataset.train), end, options).unwrap()
}

/// `(id, position, next)` of each piece in turn, without padding.
fn pieces(batch: &CausalBatch) -> Vec<Vec<(i64, i64, i64)>> {
    let mut pieces = Vec::new();
    for row in 0..batch.rows {
        let mut number = -1;
        for index in row * batch.columns..(row + 1) * batch.columns {
            if batch.next_ids[index] == IGNORED {
                continue;
            }
            if batch.document_ids[index] != number {
                number = batch.document_ids[index];
                pieces.push(Vec::new());
            }
            let (id, position) = (batch.input_ids[index], batch.position_ids[index]);
            pieces.last_mut().unwrap().push((id, position, batch.next_ids[index]));
        }
    }
    pieces
}

#[test]
fn every_token_and_every_end_is_predicted_once_from_what_came_before_it() {
    let folder = tempdir().unwrap();
    let dataset = dataset_for(Objective::NextTokens, folder.path(), 200);
    let end = i64::from(dataset.tokenizer.end_of_text().unwrap());
    let shard = Arc::clone(&dataset.train);
    let batches = CausalBatches::held_out(Arc::clone(&shard), 0, OPTIONS).unwrap();
    let (mut predicted, mut after_cuts) = (Vec::new(), 0);
    for index in 0..batches.batches_per_epoch() {
        for piece in pieces(&batches.batch(index).unwrap()) {
            assert_eq!(piece[0].0, end, "a piece begins with the end of the one before");
            for (position, seen) in piece.iter().enumerate() {
                assert_eq!(seen.1, position as i64, "positions count from the piece's begin");
                assert!(position == 0 || seen.0 == piece[position - 1].2, "what followed is seen");
            }
            // The first token after a cut is predicted twice: from the text before, and from
            // nothing.
            let cut = piece[piece.len() - 1].2 != end;
            after_cuts += usize::from(cut);
            let seen = piece.len() - usize::from(cut);
            predicted.extend(piece[..seen].iter().map(|seen| seen.2));
        }
    }
    let mut expected = Vec::new();
    for document in 0..shard.document_count() {
        expected.extend(shard.document(document).unwrap().into_iter().map(i64::from));
        expected.push(end);
    }
    assert_eq!(predicted, expected);
    assert!(after_cuts > 10, "some documents go on in the next sequence");
}

#[test]
fn a_batch_is_a_function_of_seed_and_number() {
    let folder = tempdir().unwrap();
    let dataset = dataset_for(Objective::NextTokens, folder.path(), 200);
    let (first, second) = (train(&dataset, OPTIONS), train(&dataset, OPTIONS));
    let ahead: Vec<CausalBatch> = (0..40).map(|index| first.batch(index).unwrap()).collect();
    for index in (0..40).rev() {
        assert_eq!(second.batch(index).unwrap(), ahead[index as usize], "batch {index}");
    }
    let other = train(&dataset, CausalOptions { seed: 12, ..OPTIONS });
    assert_ne!(other.batch(0).unwrap(), ahead[0]);
}

#[test]
fn a_padded_batch_holds_the_same_pieces_each_in_its_row() {
    let folder = tempdir().unwrap();
    let dataset = dataset_for(Objective::NextTokens, folder.path(), 200);
    let packed = train(&dataset, OPTIONS);
    let padded = train(&dataset, CausalOptions { layout: Layout::Padded, ..OPTIONS });
    for index in 0..5 {
        let (packed, padded) = (packed.batch(index).unwrap(), padded.batch(index).unwrap());
        assert_eq!(pieces(&padded), pieces(&packed));
        assert_eq!(pieces(&padded).len(), padded.rows);
        assert_eq!(padded.real_tokens, packed.real_tokens);
        let real = padded.next_ids.iter().filter(|&&id| id != IGNORED).count();
        assert_eq!(padded.real_tokens, real);
    }
}
