//! Examples laid into the rows of a batch: all side by side in one, without padding, or each in a
//! row of its own, filled up to the longest. No example sees another, so that both give the same.

use bert4rs_data::{EncodedText, Layout};
use bert4rs_models::pretrained::SequenceRows;
use bert4rs_tensor_core::{Device, Tensor};

use crate::batch::NamedTensors;
use crate::error::Result;

/// What rows need to know of a model.
#[derive(Debug, Clone, Copy)]
pub struct RowFrame {
    /// The token of padding.
    pub pad: i64,
    /// The position of an example's first token.
    pub first_position: i64,
    /// Whether the model tells two texts apart by token types.
    pub types: bool,
}

/// The rows of one batch, flattened.
#[derive(Debug, Default)]
pub struct Rows {
    /// How many there are.
    pub rows: usize,
    /// How long each is.
    pub columns: usize,
    /// Tokens.
    pub ids: Vec<i64>,
    types: Vec<i64>,
    positions: Vec<i64>,
    sequences: Vec<i64>,
    /// Where each example begins.
    pub first: Vec<i64>,
    /// How many tokens each example has.
    pub lengths: Vec<i64>,
}

impl Rows {
    /// Lays `texts` into rows.
    pub fn new(texts: &[&EncodedText], layout: Layout, frame: RowFrame) -> Self {
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or_default();
        let total: usize = texts.iter().map(|text| text.ids.len()).sum();
        let (rows, columns) = match layout {
            Layout::Packed => (1, total),
            Layout::Padded => (texts.len(), longest),
        };
        let mut filled = Self { rows, columns, ..Self::default() };
        for (number, text) in texts.iter().enumerate() {
            let length = text.ids.len();
            filled.first.push(filled.ids.len() as i64);
            filled.lengths.push(length as i64);
            filled.ids.extend(text.ids.iter().map(|&id| i64::from(id)));
            filled.types.extend(text.types.iter().map(|&kind| i64::from(kind)));
            let begin = frame.first_position;
            filled.positions.extend(begin..begin + length as i64);
            filled.sequences.resize(filled.ids.len(), number as i64);
            if layout == Layout::Padded {
                filled.fill_up((number + 1) * columns, frame, texts.len() as i64);
            }
        }
        filled
    }

    fn fill_up(&mut self, end: usize, frame: RowFrame, nobody: i64) {
        self.ids.resize(end, frame.pad);
        self.types.resize(end, 0);
        self.positions.resize(end, frame.first_position);
        self.sequences.resize(end, nobody);
    }

    /// Positions that are no padding.
    pub fn real(&self) -> u64 {
        self.lengths.iter().sum::<i64>() as u64
    }

    /// All positions.
    pub fn positions(&self) -> u64 {
        (self.rows * self.columns) as u64
    }

    /// As tensors on the CPU, under the names that [`sequence_rows`] reads.
    pub fn tensors(&self, frame: RowFrame) -> Vec<(&'static str, Tensor)> {
        let shape = [self.rows as i64, self.columns as i64];
        let grid = |values: &[i64]| Tensor::from_slice(values).view(shape);
        let mut tensors = vec![
            ("input_ids", grid(&self.ids)),
            ("position_ids", grid(&self.positions)),
            ("sequence_ids", grid(&self.sequences)),
            ("first", Tensor::from_slice(&self.first)),
            ("lengths", Tensor::from_slice(&self.lengths)),
        ];
        if frame.types {
            tensors.push(("token_type_ids", grid(&self.types)));
        }
        tensors
    }
}

/// What a model reads of a batch that [`Rows::tensors`] made.
///
/// # Errors
/// A batch of something else.
pub fn sequence_rows(batch: &NamedTensors) -> Result<SequenceRows<'_>> {
    Ok(SequenceRows {
        input_ids: batch.get("input_ids")?,
        token_type_ids: batch.find("token_type_ids"),
        position_ids: batch.get("position_ids")?,
        sequence_ids: batch.get("sequence_ids")?,
        first: batch.get("first")?,
        lengths: batch.get("lengths")?,
    })
}

/// Tensors on `device`.
pub(super) fn to_device(tensors: Vec<(&'static str, Tensor)>, device: Device) -> NamedTensors {
    let moved = tensors.into_iter().map(|(name, tensor)| (name, tensor.to_device(device)));
    moved.collect::<Vec<_>>().into()
}

/// A batch's values text by text, of which each has so many, in order.
pub(crate) fn split_by_counts<'a, T>(values: &'a [T], counts: &[i64]) -> Vec<&'a [T]> {
    let mut rest = values;
    let next = |&count: &i64| {
        let (these, others) = rest.split_at((count as usize).min(rest.len()));
        rest = others;
        these
    };
    counts.iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_lie_side_by_side_or_below_each_other() {
        let text = |ids: &[u32]| EncodedText {
            ids: ids.to_vec(),
            types: vec![0; ids.len()],
            words: Vec::new(),
            is_cut: false,
        };
        let (one, two) = (text(&[5, 6, 7]), text(&[8]));
        let frame = RowFrame { pad: 1, first_position: 2, types: false };
        let packed = Rows::new(&[&one, &two], Layout::Packed, frame);
        assert_eq!((packed.rows, packed.columns, packed.real()), (1, 4, 4));
        assert_eq!(packed.ids, [5, 6, 7, 8]);
        assert_eq!(packed.positions, [2, 3, 4, 2]);
        assert_eq!(packed.sequences, [0, 0, 0, 1]);
        assert_eq!(packed.first, [0, 3]);
        let padded = Rows::new(&[&one, &two], Layout::Padded, frame);
        assert_eq!((padded.rows, padded.columns, padded.real()), (2, 3, 4));
        assert_eq!(padded.ids, [5, 6, 7, 8, 1, 1]);
        assert_eq!(padded.sequences, [0, 0, 0, 1, 2, 2]);
        assert_eq!(padded.first, [0, 3]);
    }
}
