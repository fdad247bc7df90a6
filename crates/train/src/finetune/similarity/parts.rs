//! A batch's texts in parts of so many, which are encoded one part after the other.

use std::ops::Range;

use bert4rs_models::pretrained::SequenceRows;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Tensor};

use crate::error::Result;

/// The texts of a batch.
pub(super) struct TextParts<'a> {
    rows: SequenceRows<'a>,
    /// Where each text begins in the flattened rows, and where the last ends.
    ends: Vec<i64>,
    size: usize,
}

/// Some of a batch's texts: tensors of their own.
pub(super) struct TextPart {
    input_ids: Tensor,
    token_type_ids: Option<Tensor>,
    position_ids: Tensor,
    sequence_ids: Tensor,
    first: Tensor,
    lengths: Tensor,
}

impl<'a> TextParts<'a> {
    /// Parts of `size` texts, at least one.
    pub(super) fn new(rows: SequenceRows<'a>, size: usize) -> Result<Self> {
        let read = |tensor: &Tensor| {
            Vec::<i64>::try_from(tensor.to_device(Device::Cpu)).during("read places of texts")
        };
        let mut ends = read(rows.first)?;
        ends.push(rows.input_ids.numel() as i64);
        Ok(Self { rows, ends, size: size.max(1) })
    }

    fn texts(&self) -> usize {
        self.ends.len() - 1
    }

    /// How many parts there are.
    pub(super) fn count(&self) -> usize {
        self.texts().div_ceil(self.size)
    }

    /// The part of this number.
    pub(super) fn part(&self, number: usize) -> TextPart {
        let texts = number * self.size..((number + 1) * self.size).min(self.texts());
        let Range { start, end } = texts.clone();
        let (from, count) = (start as i64, texts.len() as i64);
        let (begin, stop) = (self.ends[start], self.ends[end]);
        // One row holds all texts, or each its own.
        let of = |tensor: &Tensor| match tensor.size()[0] as usize == self.texts() {
            true => tensor.narrow(0, from, count),
            false => tensor.narrow(1, begin, stop - begin),
        };
        TextPart {
            input_ids: of(self.rows.input_ids),
            token_type_ids: self.rows.token_type_ids.map(of),
            position_ids: of(self.rows.position_ids),
            sequence_ids: (of(self.rows.sequence_ids) - from).clamp_max(count),
            first: self.rows.first.narrow(0, from, count) - begin,
            lengths: self.rows.lengths.narrow(0, from, count),
        }
    }
}

impl TextPart {
    /// What a model reads.
    pub(super) fn rows(&self) -> SequenceRows<'_> {
        SequenceRows {
            input_ids: &self.input_ids,
            token_type_ids: self.token_type_ids.as_ref(),
            position_ids: &self.position_ids,
            sequence_ids: &self.sequence_ids,
            first: &self.first,
            lengths: &self.lengths,
        }
    }
}
