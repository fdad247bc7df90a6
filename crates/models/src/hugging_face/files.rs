//! The files of a model folder: JSON, and weights in one file or in shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bert4rs_tensor_core::files::{check_fetched, check_regular};
use bert4rs_tensor_core::{Tensor, safetensors};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// `json` as a `T`; the error names the key.
pub(crate) fn from_keys<T: DeserializeOwned>(json: &Value) -> std::result::Result<T, String> {
    serde_path_to_error::deserialize(json)
        .map_err(|error| format!("{}: {}", error.path(), error.inner()))
}

/// The value of a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    check_regular(path)?;
    let bytes = std::fs::read(path)
        .map_err(|source| bert4rs_tensor_core::Error::Io { path: path.to_owned(), source })?;
    check_fetched(path, &bytes)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::File {
        path: path.to_owned(),
        reason: format!("not JSON: {error}"),
    })
}

/// All tensors of the folder.
pub(super) fn read_weights(folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    let whole = folder.join("model.safetensors");
    if whole.exists() {
        return Ok(safetensors::load(&whole)?);
    }
    let index = folder.join("model.safetensors.index.json");
    if index.exists() {
        return read_shards(folder, &index);
    }
    let is_pickle = |name: &str| name.ends_with(".bin") || name.ends_with(".pt");
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let pickle =
        names.map(|entry| entry.file_name()).find(|name| is_pickle(&name.to_string_lossy()));
    let reason = match pickle {
        Some(name) => format!(
            "weights are a pickle ({}), which can run any code when read; convert them once in \
             Python: AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)",
            name.to_string_lossy()
        ),
        None => "has neither model.safetensors nor model.safetensors.index.json".into(),
    };
    Err(Error::File { path: folder.to_owned(), reason })
}

/// The tensors of all shards that `index` names.
fn read_shards(folder: &Path, index: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bad = |reason: String| Error::File { path: index.to_owned(), reason };
    let json = read_json(index)?;
    let Some(map) = json["weight_map"].as_object() else {
        return Err(bad("has no weight_map from tensors to files".into()));
    };
    let shards: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let mut tensors = BTreeMap::new();
    for shard in shards {
        // A plain name: an index must not reach outside of its folder.
        if Path::new(shard).file_name() != Some(shard.as_ref()) {
            return Err(bad(format!("{shard:?} is not the name of a file in this folder")));
        }
        tensors.extend(safetensors::load(&folder.join(shard))?);
    }
    match map.keys().find(|name| !tensors.contains_key(*name)) {
        Some(name) => Err(bad(format!("{name} is not in the file that weight_map names"))),
        None => Ok(tensors),
    }
}
