use bert4rs_data::packing::{Framing, LastSequence, MIN_PIECE, Packing};
use proptest::prelude::*;

use crate::sample::assert_error;

fn offsets(lengths: &[u64]) -> Vec<u64> {
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    offsets
}

/// All pieces of all sequences, as `(start, end)`.
fn pieces(lengths: &[u64], sequence_length: usize, last: LastSequence) -> Vec<Vec<(usize, usize)>> {
    let offsets = offsets(lengths);
    let packing = Packing::new(&offsets, Framing::ClsSep, sequence_length, last).unwrap();
    (0..packing.len())
        .map(|sequence| {
            packing.pieces(&offsets, sequence).map(|piece| (piece.start, piece.end)).collect()
        })
        .collect()
}

#[test]
fn documents_fill_sequences_and_go_on_in_the_next() {
    let found = pieces(&[3, 20, 2], 16, LastSequence::Pad);
    // 5 positions, then 11 for a piece of 9; 11 tokens are left: 13 positions, and 3 of padding;
    // the last document begins a sequence of its own.
    assert_eq!(found, [vec![(0, 3), (3, 12)], vec![(12, 23)], vec![(23, 25)]]);
}

#[test]
fn only_a_full_or_lonely_last_sequence_is_kept() {
    let (drop, pad) = (LastSequence::DropPartial, LastSequence::Pad);
    assert_eq!(pieces(&[14, 1], 16, drop), [[(0, 14)]]);
    assert_eq!(pieces(&[14, 1], 16, pad), [[(0, 14)], [(14, 15)]]);
    assert_eq!(pieces(&[1], 16, drop), [[(0, 1)]]);
    // Fewer than 8 free positions can't be used, and so the sequence counts as full.
    assert_eq!(pieces(&[14, 7], 16, drop), [[(0, 14)], [(14, 21)]]);
    assert_eq!(pieces(&[14, 6], 16, drop), [[(0, 14)]]);
}

#[test]
fn what_can_not_be_packed_is_refused() {
    let pack = |lengths: &[u64], length| {
        Packing::new(&offsets(lengths), Framing::ClsSep, length, LastSequence::DropPartial)
    };
    assert_error(pack(&[9], 7), &["the sequence length is 7", "at least 8"]);
    assert_error(pack(&[], 16), &["the number of tokens is 0"]);
    assert_error(pack(&[0, 0], 16), &["the number of tokens is 0"]);
    assert!(pieces(&[], 16, LastSequence::Pad).is_empty(), "nothing may be held out");
}

proptest! {
    #[test]
    fn every_token_of_every_document_appears_once_and_in_order(
        lengths in prop::collection::vec(0u64..60, 1..40),
        sequence_length in MIN_PIECE..50,
    ) {
        prop_assume!(lengths.iter().sum::<u64>() > 0);
        let offsets = offsets(&lengths);
        let sequences = pieces(&lengths, sequence_length, LastSequence::Pad);
        let mut next = 0;
        for (index, pieces) in sequences.iter().enumerate() {
            prop_assert!(!pieces.is_empty());
            let mut left = sequence_length;
            for &(start, end) in pieces {
                prop_assert_eq!(start, next, "in order, nothing left out");
                prop_assert!(start < end);
                let crossed = offsets.iter().any(|&at| start < at as usize && (at as usize) < end);
                prop_assert!(!crossed, "a piece is of one document");
                prop_assert!(end - start + 2 <= left, "it fits");
                left -= end - start + 2;
                next = end;
            }
            prop_assert!(left < MIN_PIECE || index + 1 == sequences.len(), "it is full");
        }
        prop_assert_eq!(next as u64, offsets[lengths.len()], "to the last token");
    }

    #[test]
    fn dropping_changes_nothing_but_the_last_sequence(
        lengths in prop::collection::vec(1u64..60, 1..40),
        sequence_length in MIN_PIECE..50,
    ) {
        let all = pieces(&lengths, sequence_length, LastSequence::Pad);
        let full = pieces(&lengths, sequence_length, LastSequence::DropPartial);
        prop_assert!(full.len() == all.len() || full.len() + 1 == all.len());
        prop_assert_eq!(&all[..full.len()], &full[..]);
    }
}
