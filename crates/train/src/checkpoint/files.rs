//! One checkpoint's folder: written so that it is whole or not there, checked, read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bert4rs_tensor_core::files::map_file;
use bert4rs_tensor_core::safetensors::{self, write_atomic};
use bert4rs_tensor_core::{Error as Core, Tensor};
use serde::{Deserialize, Serialize};

use super::state::{RunProgress, TrainState};
use crate::error::{Error, Result};

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const BUFFERS: &str = "buffers.safetensors";
/// Only of a run that averages its weights.
const AVERAGE: &str = "average.safetensors";
/// Only of a run that keeps the weights that scored best, once it has measured any.
const BEST: &str = "best.safetensors";
const CONFIG: &str = "config.toml";
const STATE: &str = "state.json";
/// Written last.
const MANIFEST: &str = "manifest.json";

/// What the files mean; raised where an older program could not read them.
const VERSION: u32 = 1;

/// `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    /// The program that wrote it.
    program: String,
    files: BTreeMap<String, Entry>,
}

/// One file's size and BLAKE3 hash.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    blake3: String,
}

/// A checkpoint that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Steps taken before it was written.
    pub step: u64,
}

impl Checkpoint {
    /// The checkpoint in a folder of this name, `step-N`, if it is one.
    pub fn at(path: &Path) -> Option<Self> {
        let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
        Some(Self { path: path.to_owned(), step })
    }

    /// Whether it has a manifest; see [`verify`](Self::verify) for whether it is as it was written.
    pub fn is_complete(&self) -> bool {
        self.path.join(MANIFEST).is_file()
    }

    /// Writes `state` and `settings` to `checkpoints/step-N`, in place of what is there.
    ///
    /// # Errors
    /// What the system says; then there is no such checkpoint.
    pub(super) fn write(folder: &Path, state: &TrainState, settings: &str) -> Result<Self> {
        let step = state.progress.step;
        let path = folder.join(format!("step-{step}"));
        let partial = folder.join(format!("step-{step}.partial"));
        let io = Error::io;
        remove(&partial)?;
        fs::create_dir_all(&partial).map_err(io(&partial))?;
        let mut tensors = vec![
            (WEIGHTS, &state.weights),
            (OPTIMIZER, &state.optimizer),
            (BUFFERS, &state.buffers),
        ];
        let some = [(AVERAGE, &state.average), (BEST, &state.best)];
        tensors.extend(some.into_iter().filter(|(_, tensors)| !tensors.is_empty()));
        let mut names = vec![CONFIG, STATE];
        for (name, tensors) in tensors {
            names.push(name);
            let named: Vec<_> = tensors.iter().map(|(n, tensor)| (n.clone(), tensor)).collect();
            safetensors::save(&partial.join(name), &named, None)?;
        }
        write_atomic(&partial.join(CONFIG), settings.as_bytes())?;
        write_atomic(&partial.join(STATE), &to_json(&partial, &state.progress)?)?;
        let mut files = BTreeMap::new();
        for name in names {
            files.insert(name.to_owned(), entry(&partial.join(name))?);
        }
        let program = env!("CARGO_PKG_VERSION").to_owned();
        let manifest = Manifest { version: VERSION, program, files };
        write_atomic(&partial.join(MANIFEST), &to_json(&partial, &manifest)?)?;
        sync(&partial)?;
        let checkpoint = Self { path, step };
        checkpoint.remove()?;
        fs::rename(&partial, &checkpoint.path).map_err(io(&checkpoint.path))?;
        sync(folder)?;
        Ok(checkpoint)
    }

    /// Checks every file against the manifest.
    ///
    /// # Errors
    /// The first file that is missing or changed; a checkpoint of a newer program.
    pub fn verify(&self) -> Result<()> {
        let manifest = self.manifest()?;
        for (name, expected) in &manifest.files {
            let path = self.path.join(name);
            if entry(&path)? != *expected {
                return Err(refuse(&path, "is not as it was written: its checksum differs"));
            }
        }
        Ok(())
    }

    fn manifest(&self) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let path = self.path.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                refuse(&self.path, "is no whole checkpoint: it has no manifest.json")
            }
            _ => Error::io(&path)(error),
        })?;
        let Version { version } = from_json(&path, &text)?;
        if version > VERSION {
            let reason = format!(
                "is a checkpoint of a newer program: its format is {version}, and this program \
                 reads up to {VERSION}"
            );
            return Err(refuse(&self.path, &reason));
        }
        from_json(&path, &text)
    }

    /// The settings of the run that wrote it, as TOML.
    ///
    /// # Errors
    /// What the system says.
    pub fn settings(&self) -> Result<String> {
        let path = self.path.join(CONFIG);
        fs::read_to_string(&path).map_err(Error::io(&path))
    }

    /// How far the run was.
    ///
    /// # Errors
    /// What the system says, and a file that holds something else.
    pub fn progress(&self) -> Result<RunProgress> {
        let path = self.path.join(STATE);
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        from_json(&path, &text)
    }

    /// Checks and reads it all.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn read(&self) -> Result<TrainState> {
        self.verify()?;
        let load = |name: &str| -> Result<BTreeMap<String, Tensor>> {
            Ok(safetensors::load(&self.path.join(name))?)
        };
        let load_some = |name: &str| match self.path.join(name).exists() {
            true => load(name),
            false => Ok(BTreeMap::new()),
        };
        Ok(TrainState {
            average: load_some(AVERAGE)?,
            best: load_some(BEST)?,
            progress: self.progress()?,
            weights: load(WEIGHTS)?,
            optimizer: load(OPTIMIZER)?,
            buffers: load(BUFFERS)?,
        })
    }

    /// Removes it, the manifest first: a half removed one is not taken for whole.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn remove(&self) -> Result<()> {
        let manifest = self.path.join(MANIFEST);
        match fs::remove_file(&manifest) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(&manifest)(error))
            }
            _ => remove(&self.path),
        }
    }
}

/// Removes a folder, if there is one.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder)(error)),
        _ => Ok(()),
    }
}

/// Makes the names in a folder last.
fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder))
}

fn entry(path: &Path) -> Result<Entry> {
    let bytes = map_file(path)?;
    Ok(Entry { bytes: bytes.len() as u64, blake3: blake3::hash(&bytes).to_hex().to_string() })
}

fn to_json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::io(path)(error.into()))
}

fn from_json<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| refuse(path, &format!("is not what a checkpoint holds: {error}")))
}

fn refuse(path: &Path, reason: &str) -> Error {
    Core::File { path: path.to_owned(), reason: reason.to_owned() }.into()
}
