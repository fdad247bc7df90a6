//! A batch of masked sequences, as plain numbers and as tensors.
//!
//! Axes: `b` rows, `t` slots of a row, `m` masked slots of the batch.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::error::Result;

/// A batch in plain memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MlmBatch {
    /// `b`, the number of rows.
    pub rows: usize,
    /// `t`, the slots of each.
    pub columns: usize,
    /// `[b, t]`: what the model sees.
    pub input_ids: Vec<i64>,
    /// `[b, t]`: the place within the piece of a document, from 0 at its `[CLS]`.
    pub position_ids: Vec<i64>,
    /// `[b, t]`: the number of the piece within its row, from 0. Attention stays within equal
    /// numbers; padding has a number of its own.
    pub document_ids: Vec<i64>,
    /// `[m]`: indices into the flattened `[b·t]` of the slots to predict, ascending.
    pub masked_positions: Vec<i64>,
    /// `[m]`: the tokens that were there.
    pub masked_labels: Vec<i64>,
    /// Slots that are not padding.
    pub real_tokens: usize,
}

/// A batch on a device; see [`MlmBatch`].
#[derive(Debug)]
pub struct MlmTensors {
    /// `[b, t]`, i64: what the model sees.
    pub input_ids: Tensor,
    /// `[b, t]`, i64: the place within the piece of a document.
    pub position_ids: Tensor,
    /// `[b, t]`, i64: the number of the piece within its sequence.
    pub document_ids: Tensor,
    /// `[m]`, i64: indices into the flattened `[b·t]` of the slots to predict.
    pub masked_positions: Tensor,
    /// `[m]`, i64: the tokens that were there.
    pub masked_labels: Tensor,
    /// Slots that are not padding.
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
