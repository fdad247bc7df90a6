use bert4rs_data::packing::{Fit, Framing, LastSequence, MIN_PIECE, Packing};
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
    let packing =
        Packing::new(&offsets, Framing::ClsSep, sequence_length, Fit::EndToEnd, last).unwrap();
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
        Packing::new(
            &offsets(lengths),
            Framing::ClsSep,
            length,
            Fit::EndToEnd,
            LastSequence::DropPartial,
        )
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

fn best(lengths: &[u64], sequence_length: usize) -> (Packing, Vec<u64>) {
    let offsets = offsets(lengths);
    let last = LastSequence::DropPartial;
    let packing = Packing::new(&offsets, Framing::ClsSep, sequence_length, Fit::Best, last);
    (packing.unwrap(), offsets)
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "pieces are ranges")]
fn best_fit_splits_only_what_is_longer_than_a_sequence() {
    // Of 16 positions, 14 tokens: 30 are two full pieces and 2. The 8 tokens and the 4 fill a
    // sequence, as do 6 with 2 and 2.
    let (packing, offsets) = best(&[8, 30, 6, 4, 2], 16);
    let found: Vec<Vec<_>> =
        (0..packing.len()).map(|index| packing.pieces(&offsets, index).collect()).collect();
    assert_eq!(
        found,
        [vec![8..22], vec![22..36], vec![0..8, 44..48], vec![36..38, 38..44, 48..50]]
    );
    let report = packing.report();
    assert_eq!((report.documents, report.split, report.too_long), (5, 1, 1));
    assert_eq!(report.padding, 0.0);
    let end_to_end =
        Packing::new(&offsets, Framing::ClsSep, 16, Fit::EndToEnd, LastSequence::Pad).unwrap();
    assert!(end_to_end.report().padding > 0.0);
}

proptest! {
    #[test]
    fn best_fit_shows_every_token_once_in_sequences_that_hold_them(
        lengths in prop::collection::vec(0u64..120, 1..60)
            .prop_filter("tokens", |lengths| lengths.iter().sum::<u64>() > 0),
        sequence_length in MIN_PIECE..70,
    ) {
        let (packing, offsets) = best(&lengths, sequence_length);
        let mut shown = vec![0; offsets[offsets.len() - 1] as usize];
        let mut filled = 0;
        for sequence in 0..packing.len() {
            let mut positions = 0;
            for piece in packing.pieces(&offsets, sequence) {
                positions += piece.len() + 2;
                let document = offsets.partition_point(|&offset| offset <= piece.start as u64);
                prop_assert!(piece.end as u64 <= offsets[document], "over a document's end");
                let fits = offsets[document] - offsets[document - 1] + 2 <= sequence_length as u64;
                let ends = [piece.start as u64, piece.end as u64];
                let whole = ends == [offsets[document - 1], offsets[document]];
                prop_assert!(whole || !fits, "split, though it fits");
                piece.for_each(|token| shown[token] += 1);
            }
            prop_assert!(positions <= sequence_length && positions > 0);
            filled += positions;
        }
        prop_assert!(shown.iter().all(|&times| times == 1));
        let padding = 1.0 - filled as f64 / (packing.len() * sequence_length) as f64;
        prop_assert!((packing.report().padding - padding).abs() < 1e-9);
    }
}
