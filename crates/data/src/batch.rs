//! Batches, as plain numbers and as tensors.
//!
//! Axes: `b` rows, `t` positions of a row, `s` positions of T5's encoder, `m` masked positions of
//! the batch.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::error::Result;
use crate::named_tensors::NamedTensors;

/// The label that counts for nothing, as in transformers.
pub const IGNORED: i64 = -100;

/// What every batch of tokens can tell.
pub trait TokenBatch: Send {
    /// Its tensors, I64, each listed once. To a GPU, the copies run while the host goes on.
    ///
    /// Where some labels are [`IGNORED`], `counted` is last: the positions `[n]` in the flattened
    /// batch, ascending, whose labels are not.
    ///
    /// # Errors
    /// What libtorch throws, such as when memory runs out.
    fn to_tensors(&self, device: Device) -> Result<NamedTensors>;

    /// What the model reads, row by row; of T5, what its encoder reads.
    fn input_ids(&self) -> &[i64];

    /// The labels that count.
    fn labels(&self) -> Vec<i64>;

    /// Positions that are not padding.
    fn real_tokens(&self) -> usize;

    /// Positions that the model computes, padding included.
    fn positions(&self) -> usize;

    /// Of the positions that are not padding, those of each corpus, where there are several.
    fn part_tokens(&self) -> &[u64];
}

/// A batch for masked language modelling, in plain memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MlmBatch {
    /// `b`, the number of rows.
    pub rows: usize,
    /// `t`, the positions of each.
    pub columns: usize,
    /// `[b, t]`: what the model sees.
    pub input_ids: Vec<i64>,
    /// `[b, t]`: the position within the piece of a document, from 0 at its `[CLS]`.
    pub position_ids: Vec<i64>,
    /// `[b, t]`: the number of the piece within its row, from 0. Attention stays within equal
    /// numbers; padding has a number of its own.
    pub document_ids: Vec<i64>,
    /// `[m]`: indices into the flattened `[b·t]` of the tokens to predict, ascending; 0 for labels
    /// that are ignored.
    pub masked_positions: Vec<i64>,
    /// `[m]`: the tokens that were there; [`IGNORED`] for what only fills the batch up.
    pub masked_labels: Vec<i64>,
    /// Positions that are not padding.
    pub real_tokens: usize,
    /// Of these, those of each corpus.
    pub part_tokens: Vec<u64>,
}

impl TokenBatch for MlmBatch {
    fn to_tensors(&self, device: Device) -> Result<NamedTensors> {
        let grid = [self.rows as i64, self.columns as i64];
        let list = [self.masked_positions.len() as i64];
        Ok(vec![
            ("input_ids", to_device(&self.input_ids, &grid, device)?),
            ("position_ids", to_device(&self.position_ids, &grid, device)?),
            ("document_ids", to_device(&self.document_ids, &grid, device)?),
            ("masked_positions", to_device(&self.masked_positions, &list, device)?),
            ("masked_labels", to_device(&self.masked_labels, &list, device)?),
        ]
        .into())
    }

    fn input_ids(&self) -> &[i64] {
        &self.input_ids
    }

    fn labels(&self) -> Vec<i64> {
        counted_labels(&self.masked_labels)
    }

    fn real_tokens(&self) -> usize {
        self.real_tokens
    }

    fn part_tokens(&self) -> &[u64] {
        &self.part_tokens
    }

    fn positions(&self) -> usize {
        self.rows * self.columns
    }
}

/// A batch for causal language modelling, in plain memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CausalBatch {
    /// `b`, the number of rows.
    pub rows: usize,
    /// `t`, the positions of each.
    pub columns: usize,
    /// `[b, t]`: what the model sees.
    pub input_ids: Vec<i64>,
    /// `[b, t]`: the position within the piece of a document, from 0.
    pub position_ids: Vec<i64>,
    /// `[b, t]`: the number of the piece within its row, from 0. Attention stays within equal
    /// numbers; padding has a number of its own.
    pub document_ids: Vec<i64>,
    /// `[b, t]`: the token that is to follow each; [`IGNORED`] for padding.
    pub next_ids: Vec<i64>,
    /// Positions that are not padding.
    pub real_tokens: usize,
    /// Of these, those of each corpus.
    pub part_tokens: Vec<u64>,
}

impl TokenBatch for CausalBatch {
    fn to_tensors(&self, device: Device) -> Result<NamedTensors> {
        let grid = [self.rows as i64, self.columns as i64];
        let mut tensors = vec![
            ("input_ids", to_device(&self.input_ids, &grid, device)?),
            ("position_ids", to_device(&self.position_ids, &grid, device)?),
            ("document_ids", to_device(&self.document_ids, &grid, device)?),
            ("next_ids", to_device(&self.next_ids, &grid, device)?),
        ];
        tensors.extend(counted(&self.next_ids, device)?);
        Ok(tensors.into())
    }

    fn input_ids(&self) -> &[i64] {
        &self.input_ids
    }

    fn labels(&self) -> Vec<i64> {
        counted_labels(&self.next_ids)
    }

    fn real_tokens(&self) -> usize {
        self.real_tokens
    }

    fn part_tokens(&self) -> &[u64] {
        &self.part_tokens
    }

    fn positions(&self) -> usize {
        self.rows * self.columns
    }
}

/// A batch of corrupted spans, in plain memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpanBatch {
    /// `b`, the number of rows.
    pub rows: usize,
    /// `s`, the positions of each row of the encoder.
    pub columns: usize,
    /// `t`, the positions of each row of the decoder.
    pub target_columns: usize,
    /// `[b, s]`: what the encoder sees.
    pub input_ids: Vec<i64>,
    /// `[b, s]`: the number of the piece within its row, from 0. Attention stays within equal
    /// numbers; padding has a number of its own.
    pub document_ids: Vec<i64>,
    /// `[b, t]`: what the decoder sees: each label one position later, within its piece.
    pub decoder_input_ids: Vec<i64>,
    /// `[b, t]`: the number of the piece, the encoder's; padding counts to the last.
    pub decoder_document_ids: Vec<i64>,
    /// `[b, t]`: what the decoder is to answer; [`IGNORED`] for padding.
    pub labels: Vec<i64>,
    /// Positions of encoder and decoder that are not padding.
    pub real_tokens: usize,
    /// Of these, those of each corpus.
    pub part_tokens: Vec<u64>,
}

impl TokenBatch for SpanBatch {
    fn to_tensors(&self, device: Device) -> Result<NamedTensors> {
        let source = [self.rows as i64, self.columns as i64];
        let target = [self.rows as i64, self.target_columns as i64];
        let mut tensors = vec![
            ("input_ids", to_device(&self.input_ids, &source, device)?),
            ("document_ids", to_device(&self.document_ids, &source, device)?),
            ("decoder_input_ids", to_device(&self.decoder_input_ids, &target, device)?),
            ("decoder_document_ids", to_device(&self.decoder_document_ids, &target, device)?),
            ("labels", to_device(&self.labels, &target, device)?),
        ];
        tensors.extend(counted(&self.labels, device)?);
        Ok(tensors.into())
    }

    fn input_ids(&self) -> &[i64] {
        &self.input_ids
    }

    fn labels(&self) -> Vec<i64> {
        counted_labels(&self.labels)
    }

    fn real_tokens(&self) -> usize {
        self.real_tokens
    }

    fn part_tokens(&self) -> &[u64] {
        &self.part_tokens
    }

    fn positions(&self) -> usize {
        self.rows * (self.columns + self.target_columns)
    }
}

/// The positions in flattened `labels` that count, `[n]`; absent where all do.
fn counted(labels: &[i64], device: Device) -> Result<Option<(&'static str, Tensor)>> {
    let positions = labels.iter().zip(0..).filter(|(label, _)| **label != IGNORED);
    let counted: Vec<i64> = positions.map(|(_, position)| position).collect();
    if counted.len() == labels.len() {
        return Ok(None);
    }
    Ok(Some(("counted", to_device(&counted, &[counted.len() as i64], device)?)))
}

fn counted_labels(labels: &[i64]) -> Vec<i64> {
    labels.iter().copied().filter(|&label| label != IGNORED).collect()
}

fn to_device(values: &[i64], shape: &[i64], device: Device) -> Result<Tensor> {
    let op = "copy a batch to its device";
    let host = Tensor::f_from_slice(values).and_then(|flat| flat.f_view(shape)).during(op)?;
    if device == Device::Cpu {
        return Ok(host);
    }
    // Only from pinned memory can a copy run beside the host.
    let pinned = host.f_pin_memory(device).during(op)?;
    Ok(pinned.f_to_device_(device, Kind::Int64, true, false).during(op)?)
}
