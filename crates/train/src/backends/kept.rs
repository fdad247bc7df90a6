//! Choices kept from one run to the next, and in a run's folder.

use std::fs;
use std::path::{Path, PathBuf};

use bert4rs_tensor_core::cpu_isa::CpuIsa;
use bert4rs_tensor_core::policy::Choice;
use bert4rs_tensor_core::precision::Precision;
use bert4rs_tensor_core::safetensors::write_atomic;
use bert4rs_tensor_core::{cpu, get_num_threads, library};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::{cache, names};

/// The file of a run's folder that says which backends its operations have.
pub const FILE: &str = "backends.json";

/// The folder in the cache.
const FOLDER: &str = "backends";

/// What the choices hold for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MeasuredPlace {
    processor: String,
    cpu_isa: Option<CpuIsa>,
    threads: i32,
    version: String,
    libtorch: String,
    precision: Precision,
}

impl MeasuredPlace {
    fn here(precision: Precision) -> Self {
        Self {
            processor: cpu::name(),
            cpu_isa: CpuIsa::of_process().ok().flatten(),
            threads: get_num_threads(),
            version: env!("CARGO_PKG_VERSION").into(),
            libtorch: library::version().into(),
            precision,
        }
    }

    /// Its file in the cache.
    fn path(&self) -> Result<PathBuf> {
        let key =
            serde_json::to_vec(self).map_err(|error| Error::io(Path::new(FILE))(error.into()))?;
        let hash = blake3::hash(&key).to_hex();
        let name = format!("{}-{}.json", names::name_of(self.precision), &hash[..16]);
        Ok(cache::root()?.join(FOLDER).join(name))
    }
}

#[derive(Serialize, Deserialize)]
struct KeptChoices {
    place: MeasuredPlace,
    choices: Vec<Choice>,
}

/// What was measured here before.
pub fn from_cache(precision: Precision) -> Option<Vec<Choice>> {
    let place = MeasuredPlace::here(precision);
    let json = fs::read(place.path().ok()?).ok()?;
    let kept: KeptChoices = serde_json::from_slice(&json).ok()?;
    (kept.place == place).then_some(kept.choices)
}

pub(super) fn to_cache(precision: Precision, choices: &[Choice]) -> Result<()> {
    let place = MeasuredPlace::here(precision);
    let path = place.path()?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    write_json(&path, &KeptChoices { place, choices: choices.to_vec() })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let json = serde_json::to_vec_pretty(value).map_err(|error| Error::io(path)(error.into()))?;
    Ok(write_atomic(path, &json)?)
}

/// Writes a run's choices to its folder.
///
/// # Errors
/// What the system says.
pub fn write(folder: &Path, choices: &[Choice]) -> Result<()> {
    write_json(&folder.join(FILE), &choices)
}

/// The choices that a run began with; none of one that made none.
///
/// # Errors
/// A file that can't be read, or that holds something else.
pub fn read(folder: &Path) -> Result<Option<Vec<Choice>>> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let json = fs::read(&path).map_err(Error::io(&path))?;
    let choices = serde_json::from_slice(&json);
    let refuse = |error: serde_json::Error| Error::RunFolder {
        path: path.clone(),
        reason: format!("is no list of backends ({error}); begin a new run"),
    };
    choices.map(Some).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::policy::{Op, OpCall};
    use bert4rs_tensor_core::{Device, Kind};

    use super::*;

    #[test]
    fn a_folder_keeps_choices_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        let shape = vec![64, 64];
        let call = OpCall { op: Op::Silu, device: Device::Cpu, kind: Kind::BFloat16, shape };
        let choices = vec![Choice::by_times(&call, 7, 70)];
        write(folder.path(), &choices).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(choices));
        fs::write(folder.path().join(FILE), "[{}]").unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(FILE) && error.contains("new run"), "{error}");
    }
}
