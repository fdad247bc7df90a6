//! Small files of JSON that tell when they are damaged.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A value with a hash of what it is written as.
#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    value: T,
    blake3: String,
}

fn hash(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(blake3::hash(&serde_json::to_vec(value)?).to_hex().to_string())
}

/// Writes `value`, whole or not at all.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let fail = |error: serde_json::Error| Error::io("write", path)(error.into());
    let blake3 = hash(value).map_err(fail)?;
    let sealed = Sealed { value, blake3 };
    let json = serde_json::to_vec_pretty(&sealed).map_err(fail)?;
    Ok(bert4rs_tensor_core::safetensors::write_atomic(path, &json)?)
}

/// Reads what [`write`] wrote.
pub(crate) fn read<T: Serialize + DeserializeOwned>(path: &Path) -> Result<T> {
    let fail = |error: serde_json::Error| Error::io("read", path)(error.into());
    let json = fs::read(path).map_err(Error::io("read", path))?;
    let sealed: Sealed<T> = serde_json::from_slice(&json).map_err(fail)?;
    let value = sealed.value;
    if hash(&value).map_err(fail)? == sealed.blake3 {
        return Ok(value);
    }
    let reason = "does not match its checksum".to_owned();
    Err(Error::Shard { path: path.to_owned(), reason })
}
