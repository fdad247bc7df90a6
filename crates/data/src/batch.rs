//! Batches, as plain numbers and as tensors.
//!
//! Axes: `b` rows, `t` positions of a row, `s` positions of T5's encoder, `m` masked positions of
//! the batch.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::error::Result;

/// The label that counts for nothing, as in transformers.
pub const IGNORED: i64 = -100;

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
    /// `[m]`: indices into the flattened `[b·t]` of the positions to predict, ascending.
    pub masked_positions: Vec<i64>,
    /// `[m]`: the tokens that were there.
    pub masked_labels: Vec<i64>,
    /// Positions that are not padding.
    pub real_tokens: usize,
}

/// A batch on a device; see [`MlmBatch`].
#[derive(Debug)]
pub struct MlmTensors {
    /// `[b, t]`, i64: what the model sees.
    pub input_ids: Tensor,
    /// `[b, t]`, i64: the position within the piece of a document.
    pub position_ids: Tensor,
    /// `[b, t]`, i64: the number of the piece within its sequence.
    pub document_ids: Tensor,
    /// `[m]`, i64: indices into the flattened `[b·t]` of the positions to predict.
    pub masked_positions: Tensor,
    /// `[m]`, i64: the tokens that were there.
    pub masked_labels: Tensor,
    /// Positions that are not padding.
    pub real_tokens: usize,
}

impl MlmBatch {
    /// Copies the batch to `device`. To a GPU, the copies run while the host goes on.
    ///
    /// # Errors
    /// What libtorch throws, such as when memory runs out.
    pub fn to_tensors(&self, device: Device) -> Result<MlmTensors> {
        let grid = [self.rows as i64, self.columns as i64];
        let list = [self.masked_positions.len() as i64];
        Ok(MlmTensors {
            input_ids: to_device(&self.input_ids, &grid, device)?,
            position_ids: to_device(&self.position_ids, &grid, device)?,
            document_ids: to_device(&self.document_ids, &grid, device)?,
            masked_positions: to_device(&self.masked_positions, &list, device)?,
            masked_labels: to_device(&self.masked_labels, &list, device)?,
            real_tokens: self.real_tokens,
        })
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
}

/// A batch on a device; see [`CausalBatch`].
#[derive(Debug)]
pub struct CausalTensors {
    /// `[b, t]`, i64: what the model sees.
    pub input_ids: Tensor,
    /// `[b, t]`, i64: the position within the piece of a document.
    pub position_ids: Tensor,
    /// `[b, t]`, i64: the number of the piece within its row.
    pub document_ids: Tensor,
    /// `[b, t]`, i64: the token that is to follow each.
    pub next_ids: Tensor,
    /// `[n]`, i64: see [`CausalBatch::counted`].
    pub counted: Tensor,
}

impl CausalBatch {
    /// The positions in the flattened batch whose label counts, ascending: all but padding.
    pub fn counted(&self) -> Vec<i64> {
        counted(&self.next_ids)
    }

    /// The labels that count.
    pub fn counted_labels(&self) -> Vec<i64> {
        self.next_ids.iter().copied().filter(|&label| label != IGNORED).collect()
    }

    /// Copies the batch to `device`. To a GPU, the copies run while the host goes on.
    ///
    /// # Errors
    /// What libtorch throws, such as when memory runs out.
    pub fn to_tensors(&self, device: Device) -> Result<CausalTensors> {
        let grid = [self.rows as i64, self.columns as i64];
        let counted = self.counted();
        Ok(CausalTensors {
            input_ids: to_device(&self.input_ids, &grid, device)?,
            position_ids: to_device(&self.position_ids, &grid, device)?,
            document_ids: to_device(&self.document_ids, &grid, device)?,
            next_ids: to_device(&self.next_ids, &grid, device)?,
            counted: to_device(&counted, &[counted.len() as i64], device)?,
        })
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
}

/// A batch on a device; see [`SpanBatch`].
#[derive(Debug)]
pub struct SpanTensors {
    /// `[b, s]`, i64: what the encoder sees.
    pub input_ids: Tensor,
    /// `[b, s]`, i64: the number of the piece within its row.
    pub document_ids: Tensor,
    /// `[b, t]`, i64: what the decoder sees.
    pub decoder_input_ids: Tensor,
    /// `[b, t]`, i64: the number of the piece within its row.
    pub decoder_document_ids: Tensor,
    /// `[b, t]`, i64: what the decoder is to answer.
    pub labels: Tensor,
    /// `[n]`, i64: see [`SpanBatch::counted`].
    pub counted: Tensor,
}

impl SpanBatch {
    /// The positions in the flattened labels that count, ascending: all but padding.
    pub fn counted(&self) -> Vec<i64> {
        counted(&self.labels)
    }

    /// The labels that count.
    pub fn counted_labels(&self) -> Vec<i64> {
        self.labels.iter().copied().filter(|&label| label != IGNORED).collect()
    }

    /// Copies the batch to `device`. To a GPU, the copies run while the host goes on.
    ///
    /// # Errors
    /// What libtorch throws, such as when memory runs out.
    pub fn to_tensors(&self, device: Device) -> Result<SpanTensors> {
        let source = [self.rows as i64, self.columns as i64];
        let target = [self.rows as i64, self.target_columns as i64];
        let counted = self.counted();
        Ok(SpanTensors {
            input_ids: to_device(&self.input_ids, &source, device)?,
            document_ids: to_device(&self.document_ids, &source, device)?,
            decoder_input_ids: to_device(&self.decoder_input_ids, &target, device)?,
            decoder_document_ids: to_device(&self.decoder_document_ids, &target, device)?,
            labels: to_device(&self.labels, &target, device)?,
            counted: to_device(&counted, &[counted.len() as i64], device)?,
        })
    }
}

/// The positions in flattened `labels` that count.
fn counted(labels: &[i64]) -> Vec<i64> {
    let positions = labels.iter().zip(0..);
    positions.filter(|(label, _)| **label != IGNORED).map(|(_, position)| position).collect()
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
