//! Examples laid into the rows of a batch: all side by side in one, without padding, or each in a
//! row of its own, filled up to the longest. No example sees another, so that both give the same.

use bert4rs_data::{EncodedText, Layout};
use bert4rs_models::loss::IGNORED;
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
    /// Whether it has an entry for each two positions of a row: rows are kept short then.
    pub relative: bool,
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
    /// What is to be written after each example, in as many rows; absent where nothing is, or it is
    /// not known.
    pub targets: Option<Box<Rows>>,
}

/// Tokens of a row that holds several texts, of models that read one and write another.
const PAIR_ROW: usize = 256;

/// The row of each pair of a text that is read and one that is written, of these lengths: the first
/// that has room for both, the longest first.
fn fit(lengths: &[(usize, usize)]) -> Vec<usize> {
    let room_of = |length: fn(&(usize, usize)) -> usize| {
        lengths.iter().map(length).max().unwrap_or_default().max(PAIR_ROW)
    };
    let (reads, writes) = (room_of(|pair| pair.0), room_of(|pair| pair.1));
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(lengths[at]));
    let mut filled: Vec<(usize, usize)> = Vec::new();
    let mut row_of = vec![0; lengths.len()];
    for at in order {
        let (read, written) = lengths[at];
        let has_room = |row: &(usize, usize)| row.0 + read <= reads && row.1 + written <= writes;
        let row = filled.iter().position(has_room).unwrap_or(filled.len());
        if row == filled.len() {
            filled.push((0, 0));
        }
        filled[row] = (filled[row].0 + read, filled[row].1 + written);
        row_of[at] = row;
    }
    row_of
}

impl Rows {
    /// Lays `texts` into rows: packed, into one, or, of a model with relative positions, as
    /// [`of_pairs`](Self::of_pairs) does.
    pub fn new(texts: &[&EncodedText], layout: Layout, frame: RowFrame) -> Self {
        let row_of: Vec<usize> = match layout {
            Layout::Packed if frame.relative => return Self::of_pairs(texts, None, layout, frame),
            Layout::Packed => vec![0; texts.len()],
            Layout::Padded => (0..texts.len()).collect(),
        };
        Self::placed(texts, &row_of, frame)
    }

    /// Lays texts that are read into rows, and those that are to be written into as many. Packed,
    /// rows hold 256 tokens or the longest text, as a table of relative positions has an
    /// entry for each two tokens of a row.
    pub fn of_pairs(
        texts: &[&EncodedText],
        targets: Option<&[&EncodedText]>,
        layout: Layout,
        frame: RowFrame,
    ) -> Self {
        let length = |text: &&EncodedText| text.ids.len();
        let row_of = match layout {
            Layout::Padded => (0..texts.len()).collect(),
            Layout::Packed => {
                let written = targets.map(|targets| targets.iter().map(length).collect());
                let written: Vec<usize> = written.unwrap_or_else(|| vec![0; texts.len()]);
                fit(&texts.iter().map(length).zip(written).collect::<Vec<_>>())
            }
        };
        let targets = targets.map(|targets| Box::new(Self::placed(targets, &row_of, frame)));
        Self { targets, ..Self::placed(texts, &row_of, frame) }
    }

    /// Lays each text into the row that is named for it, behind those before it.
    fn placed(texts: &[&EncodedText], row_of: &[usize], frame: RowFrame) -> Self {
        let rows = row_of.iter().max().map_or(0, |last| last + 1);
        let mut ends = vec![0; rows];
        let place = |(text, &row): (&&EncodedText, &usize)| {
            let begin = ends[row];
            ends[row] += text.ids.len();
            begin
        };
        let begins: Vec<usize> = texts.iter().zip(row_of).map(place).collect();
        let columns = ends.iter().copied().max().unwrap_or_default();
        let size = rows * columns;
        let mut filled = Self {
            rows,
            columns,
            ids: vec![frame.pad; size],
            types: vec![0; size],
            positions: vec![frame.first_position; size],
            sequences: vec![texts.len() as i64; size],
            ..Self::default()
        };
        for (number, ((text, row), begin)) in texts.iter().zip(row_of).zip(begins).enumerate() {
            let (first, length) = (row * columns + begin, text.ids.len());
            filled.first.push(first as i64);
            filled.lengths.push(length as i64);
            for (offset, (&id, &kind)) in text.ids.iter().zip(&text.types).enumerate() {
                let at = first + offset;
                filled.ids[at] = id.into();
                filled.types[at] = kind.into();
                filled.positions[at] = frame.first_position + offset as i64;
                filled.sequences[at] = number as i64;
            }
        }
        filled
    }

    /// Positions that are no padding.
    pub fn real(&self) -> u64 {
        let targets = self.targets.as_ref().map_or(0, |targets| targets.real());
        self.lengths.iter().sum::<i64>() as u64 + targets
    }

    /// All positions.
    pub fn positions(&self) -> u64 {
        let targets = self.targets.as_ref().map_or(0, |targets| targets.positions());
        (self.rows * self.columns) as u64 + targets
    }

    /// As tensors of a decoder, on the CPU: what it reads, each text one place later behind
    /// `start`, and what it is to say, with the places that count.
    pub(super) fn tensors_of_decoder(&self, start: i64) -> Vec<(&'static str, Tensor)> {
        let shape = [self.rows as i64, self.columns as i64];
        let grid = |values: &[i64]| Tensor::from_slice(values).view(shape);
        let (mut read, mut labels) = (self.ids.clone(), vec![IGNORED; self.ids.len()]);
        let mut counted = Vec::new();
        for (&first, &length) in self.first.iter().zip(&self.lengths) {
            let (first, end) = (first as usize, (first + length) as usize);
            read[first] = start;
            read[first + 1..end].copy_from_slice(&self.ids[first..end - 1]);
            labels[first..end].copy_from_slice(&self.ids[first..end]);
            counted.extend(first as i64..end as i64);
        }
        vec![
            ("decoder_input_ids", grid(&read)),
            ("decoder_sequence_ids", grid(&self.sequences)),
            ("labels", grid(&labels)),
            ("counted", Tensor::from_slice(&counted)),
        ]
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
        let frame = RowFrame { pad: 1, first_position: 2, types: false, relative: false };
        let packed = Rows::new(&[&one, &two], Layout::Packed, frame);
        assert_eq!((packed.rows, packed.columns, packed.real()), (1, 4, 4));
        assert_eq!(packed.ids, [5, 6, 7, 8]);
        assert_eq!(packed.positions, [2, 3, 4, 2]);
        assert_eq!(packed.sequences, [0, 0, 0, 1]);
        assert_eq!(packed.first, [0, 3]);
        let relative = RowFrame { relative: true, ..frame };
        let rows = Rows::new(&[&text(&[5; 200]), &text(&[6; 60])], Layout::Packed, relative);
        assert_eq!((rows.rows, rows.columns, rows.real()), (2, 200, 260), "rows are kept short");
        let padded = Rows::new(&[&one, &two], Layout::Padded, frame);
        assert_eq!((padded.rows, padded.columns, padded.real()), (2, 3, 4));
        assert_eq!(padded.ids, [5, 6, 7, 8, 1, 1]);
        assert_eq!(padded.sequences, [0, 0, 0, 1, 2, 2]);
        assert_eq!(padded.first, [0, 3]);
    }

    #[test]
    fn pairs_share_rows_where_both_texts_have_room() {
        let text = |length: usize| EncodedText {
            ids: vec![7; length],
            types: vec![0; length],
            words: Vec::new(),
            is_cut: false,
        };
        let (long, short, target) = (text(200), text(50), text(2));
        let frame = RowFrame { pad: 0, first_position: 0, types: false, relative: false };
        let targets = [&target; 3];
        let sources = [&short, &long, &long];
        let rows = Rows::of_pairs(&sources, Some(&targets), Layout::Packed, frame);
        assert_eq!((rows.rows, rows.columns), (2, 250));
        assert_eq!(rows.first, [0, 50, 250]);
        assert_eq!(rows.real(), 450 + 6);
        let targets = rows.targets.unwrap();
        assert_eq!((targets.rows, targets.columns, targets.first), (2, 4, vec![0, 2, 4]));
        let targets = [&long, &long, &target];
        let rows = Rows::of_pairs(&sources, Some(&targets), Layout::Packed, frame);
        assert_eq!(rows.first, [250, 0, 300], "the first row has no room for the target");
        let of_decoder = rows.targets.unwrap().tensors_of_decoder(3);
        let read = Vec::<i64>::try_from(of_decoder[0].1.narrow(0, 1, 1).flatten(0, 1)).unwrap();
        assert_eq!((&read[..3], &read[200..]), (&[3, 7, 7][..], &[3, 7][..]));
        let labels = Vec::<i64>::try_from(of_decoder[2].1.narrow(0, 1, 1).flatten(0, 1)).unwrap();
        assert_eq!(labels.iter().filter(|&&label| label == IGNORED).count(), 0);
    }
}
