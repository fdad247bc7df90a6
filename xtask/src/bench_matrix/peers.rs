//! PyTorch beside us: an environment with pinned packages, and what its script reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::output;
use super::store::{hash_of, key};
use crate::cache::{Cache, Manifest};
use crate::checkout::{Checkout, shown};
use crate::console;
use crate::error::{Error, Result};

/// The packages, pinned.
const REQUIREMENTS: &str = "benches/peers/requirements.txt";
/// What trains a peer.
const SCRIPT: &str = "benches/peers/train.py";

/// A Python that has the packages.
pub(crate) struct Python {
    path: PathBuf,
}

/// What the peers of a size read.
pub(crate) struct PeerInputs {
    config: PathBuf,
    batches: PathBuf,
    hash: String,
}

impl Python {
    /// The installed Python if it has just these packages, else an environment in the cache
    /// folder, made once.
    pub(crate) fn ensure(checkout: &Checkout) -> Result<Self> {
        let requirements = checkout.root().join(REQUIREMENTS);
        let pins = fs::read_to_string(&requirements).map_err(Error::at(&requirements))?;
        if has_packages(Path::new("python3"), &pins) {
            return Ok(Self { path: PathBuf::from("python3") });
        }
        let pin = key([pins.as_str()]);
        let cache = Cache::of_user()?;
        let folder = cache.path(&format!("peers-{}", &pin[..12]));
        let manifest = folder.join("manifest");
        let path = folder.join("bin/python");
        if !Manifest::holds(&manifest, &pin, &folder) {
            let _lock = cache.lock()?;
            console::note(format_args!(
                "making a Python environment for the peers in {} (2 GB, once)",
                folder.display()
            ));
            pip(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
            let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
            pip(Command::new(&path).args(quiet).arg(&requirements))?;
            Manifest::new(&pin).write(&manifest)?;
        }
        Ok(Self { path })
    }

    /// A run of the script, and the key of what it measures.
    pub(crate) fn command(
        &self,
        checkout: &Checkout,
        inputs: &PeerInputs,
        args: &[String],
        steps: u64,
        device: &str,
        run: &Path,
    ) -> Result<(Command, String)> {
        let script = checkout.root().join(SCRIPT);
        let mut command = Command::new(&self.path);
        checkout.forget_package(&mut command);
        command.arg(&script).args(args).arg("--config").arg(&inputs.config);
        command.arg("--batches").arg(&inputs.batches).arg("--steps").arg(steps.to_string());
        command.args(["--device", device]).arg("--out").arg(run);
        // A progress bar or a look for updates is no part of training.
        command.env("HF_HUB_OFFLINE", "1").env("TRANSFORMERS_VERBOSITY", "error");
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let mut hashes = vec![inputs.hash.clone(), steps.to_string(), device.to_owned()];
        for part in fs::read_dir(checkout.root().join("benches/peers"))
            .map_err(Error::at(Path::new("benches/peers")))?
        {
            let path = part.map_err(Error::at(&script))?.path();
            if path.extension().is_some_and(|ending| ending == "py" || ending == "txt") {
                hashes.push(hash_of(&path)?);
            }
        }
        hashes[3..].sort();
        hashes.extend(args.iter().cloned());
        Ok((command, key(hashes.iter().map(String::as_str))))
    }
}

/// Whether this Python has each pinned package in just the pinned version.
fn has_packages(python: &Path, pins: &str) -> bool {
    let script = "import sys, importlib.metadata as m\n\
                  for pin in sys.argv[1:]:\n  \
                  name, version = pin.split('==')\n  \
                  assert m.version(name).split('+')[0] == version";
    let pins = pins.lines().map(str::trim).filter(|pin| pin.contains("=="));
    let mut args = vec!["-c", script];
    args.extend(pins);
    output(&python.to_string_lossy(), &args).is_some()
}

fn pip(command: &mut Command) -> Result<()> {
    let missing = |_| Error::ProgramMissing {
        program: "python3".to_owned(),
        remedy: "install python3 with its venv and pip (Debian: python3-venv), or leave --peers \
                 away",
    };
    let output = command.output().map_err(missing)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Fetch {
            what: shown(command),
            remedy: "check the network, and that python3 has venv and pip (Debian: python3-venv)",
            log: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
        }),
    }
}

impl PeerInputs {
    /// Writes the configuration, TOML, as the JSON that any Python can read.
    pub(crate) fn write(folder: &Path, config: &Path, batches: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(config).map_err(Error::at(config))?;
        let malformed = |reason: String| Error::Malformed { path: config.to_path_buf(), reason };
        let values: toml::Table =
            toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        let json =
            serde_json::to_string_pretty(&values).map_err(|error| malformed(error.to_string()))?;
        let path = folder.join("config.json");
        fs::write(&path, &json).map_err(Error::at(&path))?;
        let hash = key([json.as_str(), hash_of(&batches)?.as_str()]);
        Ok(Self { config: path, batches, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_reaches_python_as_json() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        fs::write(&config, "seed = 1\n[model]\nvocab_size = 30000\ndropout = 0.0\n").unwrap();
        let batches = folder.path().join("batches.safetensors");
        fs::write(&batches, "batches").unwrap();
        let inputs = PeerInputs::write(folder.path(), &config, batches.clone()).unwrap();
        let json = fs::read_to_string(&inputs.config).unwrap();
        let values: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(values["model"]["vocab_size"], 30000);
        fs::write(&batches, "others").unwrap();
        let other = PeerInputs::write(folder.path(), &config, batches).unwrap();
        assert_ne!(inputs.hash, other.hash, "other batches are another measurement");
    }

    #[test]
    fn a_python_without_the_packages_is_not_used() {
        assert!(!has_packages(Path::new("python3"), "no-such-package-of-ours==1.0\n"));
        assert!(!has_packages(Path::new("/nowhere/python3"), ""));
    }
}
