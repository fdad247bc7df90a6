//! A state that rank 0 read from its disk, for all ranks: others may not see that disk.

use std::collections::BTreeMap;

use bert4rs_tensor_core::distributed::ProcessGroup;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::policy::Choice;
use bert4rs_tensor_core::{Device, Error as Core, Kind, Tensor};
use serde::{Deserialize, Serialize};

use super::{MeteredGroup, Ranks};
use crate::checkpoint::{RunProgress, TrainState};
use crate::error::{Error, Result};
use crate::metrics::StepRecord;

const OP: &str = "share a checkpoint";

/// Dtypes of what is saved.
const KINDS: [(Kind, &str); 9] = [
    (Kind::Float, "f32"),
    (Kind::Double, "f64"),
    (Kind::BFloat16, "bf16"),
    (Kind::Half, "f16"),
    (Kind::Int64, "i64"),
    (Kind::Int, "i32"),
    (Kind::Int16, "i16"),
    (Kind::Uint8, "u8"),
    (Kind::Bool, "bool"),
];

/// What is told before the tensors.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    progress: RunProgress,
    records: Vec<StepRecord>,
    /// Of weights, the optimizer's state, buffers, averages, and the best weights.
    sections: [Vec<Entry>; 5],
}

/// A tensor's name, dtype and shape.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    kind: String,
    shape: Vec<i64>,
}

impl Ranks {
    /// The leader's choice of backends, which all take, so that they compute the same bits.
    ///
    /// # Errors
    /// A process that is gone.
    pub(crate) fn share_backends(&self, choices: Vec<Choice>) -> Result<Vec<Choice>> {
        let group = self.group();
        if !group.is_shared() {
            return Ok(choices);
        }
        let failed = |error: serde_json::Error| Error::Other(error.into());
        if self.leads() {
            send_bytes(group, &serde_json::to_vec(&choices).map_err(failed)?)?;
            return Ok(choices);
        }
        serde_json::from_slice(&receive_bytes(group)?).map_err(failed)
    }
}

/// Gives all ranks of `group` what rank 0 has read, if it has; the others give nothing.
///
/// # Errors
/// A dtype that is never saved, and those of the group.
pub(crate) fn share_state(
    group: &MeteredGroup,
    saved: Option<(TrainState, Vec<StepRecord>)>,
) -> Result<Option<(TrainState, Vec<StepRecord>)>> {
    if !group.is_shared() {
        return Ok(saved);
    }
    match (group.rank() == 0, saved) {
        (true, None) => send_bytes(group, &[]).map(|()| None),
        (true, Some((state, records))) => {
            send(group, &state, &records)?;
            Ok(Some((state, records)))
        }
        (false, _) => receive(group),
    }
}

/// Gives all ranks of `group` the scores of rank 0, to the bit, so that all decide alike.
///
/// # Errors
/// Those of the group.
pub(crate) fn share_scores(
    group: &MeteredGroup,
    scores: BTreeMap<String, f64>,
) -> Result<BTreeMap<String, f64>> {
    if !group.is_shared() {
        return Ok(scores);
    }
    let failed = |error: serde_json::Error| Error::Other(error.into());
    if group.rank() == 0 {
        // As bits: JSON has no scores that are no numbers.
        let bits: BTreeMap<_, _> = scores.iter().map(|(name, x)| (name, x.to_bits())).collect();
        send_bytes(group, &serde_json::to_vec(&bits).map_err(failed)?)?;
        return Ok(scores);
    }
    let bits: BTreeMap<String, u64> =
        serde_json::from_slice(&receive_bytes(group)?).map_err(failed)?;
    Ok(bits.into_iter().map(|(name, bits)| (name, f64::from_bits(bits))).collect())
}

fn send(group: &MeteredGroup, state: &TrainState, records: &[StepRecord]) -> Result<()> {
    let TrainState { weights, optimizer, buffers, average, best, .. } = state;
    let sections = [weights, optimizer, buffers, average, best];
    let mut header = Header {
        progress: state.progress.clone(),
        records: records.to_vec(),
        sections: Default::default(),
    };
    for (entries, tensors) in header.sections.iter_mut().zip(sections) {
        for (name, tensor) in tensors {
            let kind = KINDS.iter().find(|(kind, _)| *kind == tensor.kind());
            let (_, kind) = kind.ok_or_else(|| Core::Unsupported {
                what: format!("{name} in {:?}", tensor.kind()),
                reason: "no state is saved in this dtype".into(),
            })?;
            let (name, kind) = (name.clone(), (*kind).to_owned());
            entries.push(Entry { name, kind, shape: tensor.size() });
        }
    }
    let text = serde_json::to_vec(&header).map_err(|error| Error::Other(error.into()))?;
    send_bytes(group, &text)?;
    for tensor in sections.into_iter().flat_map(BTreeMap::values) {
        let bytes = tensor.f_contiguous().and_then(|t| t.f_view(-1)?.f_view_dtype(Kind::Uint8));
        let mut bytes = bytes.during(OP)?;
        group.broadcast(&mut bytes, 0)?.wait()?;
    }
    Ok(())
}

fn receive(group: &MeteredGroup) -> Result<Option<(TrainState, Vec<StepRecord>)>> {
    let text = receive_bytes(group)?;
    if text.is_empty() {
        return Ok(None);
    }
    let header: Header =
        serde_json::from_slice(&text).map_err(|error| Error::Other(error.into()))?;
    let mut sections = [const { BTreeMap::new() }; 5];
    for (entries, tensors) in header.sections.iter().zip(&mut sections) {
        for Entry { name, kind, shape } in entries {
            let kind = KINDS.iter().find(|(_, known)| known == kind).map(|(kind, _)| *kind);
            let kind = kind.unwrap_or(Kind::Uint8);
            let tensor = Tensor::f_empty(&shape[..], (kind, Device::Cpu)).during(OP)?;
            let bytes = tensor.f_view(-1).and_then(|t| t.f_view_dtype(Kind::Uint8));
            group.broadcast(&mut bytes.during(OP)?, 0)?.wait()?;
            tensors.insert(name.clone(), tensor);
        }
    }
    let [weights, optimizer, buffers, average, best] = sections;
    let progress = header.progress;
    let state = TrainState { progress, weights, optimizer, buffers, average, best };
    Ok(Some((state, header.records)))
}

fn send_bytes(group: &MeteredGroup, bytes: &[u8]) -> Result<()> {
    let mut length = Tensor::f_from_slice(&[bytes.len() as i64]).during(OP)?;
    group.broadcast(&mut length, 0)?.wait()?;
    if !bytes.is_empty() {
        let mut bytes = Tensor::f_from_slice(bytes).during(OP)?;
        group.broadcast(&mut bytes, 0)?.wait()?;
    }
    Ok(())
}

fn receive_bytes(group: &MeteredGroup) -> Result<Vec<u8>> {
    let mut length = Tensor::f_from_slice(&[0i64]).during(OP)?;
    group.broadcast(&mut length, 0)?.wait()?;
    let length = length.f_int64_value(&[0]).during(OP)?;
    if length == 0 {
        return Ok(Vec::new());
    }
    let mut bytes = Tensor::f_empty([length], (Kind::Uint8, Device::Cpu)).during(OP)?;
    group.broadcast(&mut bytes, 0)?.wait()?;
    Ok(Vec::<u8>::try_from(&bytes).during(OP)?)
}
