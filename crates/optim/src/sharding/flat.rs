//! Whole tensors, by parameter, and the flat buffers in which pieces of them travel.
//!
//! A flat buffer, `[N S]`, holds the segment of each of `N` ranks one after another, each `S` long.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

use super::plan::{Piece, ShardPlan};

const OP: &str = "shards";

/// The pieces of a rank, each with its place in the rank's segment.
pub(super) fn placed(pieces: &[Piece]) -> impl Iterator<Item = (i64, &Piece)> {
    pieces.iter().scan(0, |next, piece| {
        let place = *next;
        *next += piece.count();
        Some((place, piece))
    })
}

/// All pieces, each with its place in a flat buffer.
fn all_placed(plan: &ShardPlan) -> impl Iterator<Item = (i64, &Piece)> {
    plan.segments().iter().enumerate().flat_map(|(rank, pieces)| {
        let start = rank as i64 * plan.segment_values();
        placed(pieces).map(move |(place, piece)| (start + place, piece))
    })
}

/// The pieces of a parameter in their order, each with its place in a flat buffer.
pub(super) fn placed_of_param(plan: &ShardPlan, param: usize) -> Vec<(i64, &Piece)> {
    let mut pieces: Vec<_> = all_placed(plan).filter(|(_, piece)| piece.param == param).collect();
    pieces.sort_by_key(|(_, piece)| piece.values.start);
    pieces
}

/// The values of `piece` in `whole`, its parameter's tensor: `[count]`, memory shared.
pub(super) fn of_piece(whole: &Tensor, piece: &Piece) -> Result<Tensor> {
    let flat = whole.detach().f_view(-1).during(OP)?;
    flat.f_narrow(0, piece.values.start, piece.count()).during(OP)
}

/// A flat buffer of `wholes`, zeros where one is undefined.
pub(super) fn flatten(
    plan: &ShardPlan,
    wholes: &[Tensor],
    (kind, device): (Kind, Device),
) -> Result<Tensor> {
    let count = plan.segments().len() as i64 * plan.segment_values();
    let flat = Tensor::f_zeros([count], (kind, device)).during(OP)?;
    for (place, piece) in all_placed(plan) {
        let whole = &wholes[piece.param];
        if whole.defined() {
            let part = of_piece(&whole.f_contiguous().during(OP)?, piece)?;
            flat.f_narrow(0, place, piece.count()).during(OP)?.f_copy_(&part).during(OP)?;
        }
    }
    Ok(flat)
}

/// Copies a flat buffer into `wholes`.
pub(super) fn unflatten(plan: &ShardPlan, flat: &Tensor, wholes: &[Tensor]) -> Result<()> {
    for (place, piece) in all_placed(plan) {
        let part = flat.f_narrow(0, place, piece.count()).during(OP)?;
        of_piece(&wholes[piece.param], piece)?.f_copy_(&part).during(OP)?;
    }
    Ok(())
}

/// A rank's segment, from the values of its pieces in their order; what is absent is zeros.
pub(super) fn segment(
    plan: &ShardPlan,
    rank: usize,
    parts: &[Option<Tensor>],
    (kind, device): (Kind, Device),
) -> Result<Tensor> {
    let segment = Tensor::f_zeros([plan.segment_values()], (kind, device)).during(OP)?;
    for ((place, _), part) in placed(plan.segment(rank)).zip(parts) {
        if let Some(part) = part {
            let part = part.f_reshape(-1).during(OP)?;
            let count = part.numel() as i64;
            segment.f_narrow(0, place, count).during(OP)?.f_copy_(&part).during(OP)?;
        }
    }
    Ok(segment)
}
