//! What the processes of a run must have in common, as facts to be compared.

use bert4rs_tensor_core::distributed::Facts as SharedFacts;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind};
use toml::Table;

use crate::build::Parts;
use crate::config::leaves;
use crate::error::Result;

/// Keys that may differ from process to process: they change no size, no dtype and no decision.
const OWN: [&str; 4] = ["compute.device", "compute.threads", "data.prefetch", "data.workers"];

/// Program and settings.
pub(super) fn of_settings(settings: &Table) -> Result<SharedFacts> {
    let shared = leaves(settings).into_iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
    let mut facts: SharedFacts = shared.map(|(key, value)| (key, value.to_string())).collect();
    facts.insert("the program's version".into(), env!("CARGO_PKG_VERSION").into());
    Ok(facts)
}

/// Data and initial weights, from which all sizes of exchanges follow.
pub(super) fn of_parts(parts: &Parts) -> Result<SharedFacts> {
    let data = &parts.data;
    Ok([
        ("the data", data.facts.data_hash.clone()),
        ("the number of batches in an epoch", data.epoch_batches.to_string()),
        ("the initial weights", hash_of_weights(&parts.params)?),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into())
}

/// A hash of names, shapes, dtypes and values.
pub(crate) fn hash_of_weights(params: &ParamStore) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for param in params.params().iter() {
        let weight = &param.weight;
        hasher
            .update(format!("{} {:?} {:?}\n", param.name, weight.size(), weight.kind()).as_bytes());
        let bytes = weight
            .f_detach()
            .and_then(|weight| weight.f_to_device(Device::Cpu)?.f_reshape(-1))
            .and_then(|weight| weight.f_view_dtype(Kind::Uint8))
            .during("hash of weights")?;
        hasher.update(&Vec::<u8>::try_from(&bytes).during("hash of weights")?);
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}
