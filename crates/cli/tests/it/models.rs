//! Model folders made of the results of transformers that the models crate keeps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bert4rs_tensor_core::{Tensor, safetensors};
use serde_json::{Value, json};

use crate::support::Sandbox;

pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// What transformers recorded for the model `name`.
pub(crate) fn vectors(name: &str) -> Tensors {
    safetensors::load(&vectors_folder().join(format!("{name}.safetensors"))).unwrap()
}

fn vectors_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/vectors")
}

/// Writes the model `name` as the folder `name`, its architecture named in its configuration.
pub(crate) fn write_model(sandbox: &Sandbox, name: &str, architecture: &str) {
    let text = std::fs::read_to_string(vectors_folder().join(format!("{name}.json"))).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["architectures"] = json!([architecture]);
    std::fs::create_dir_all(sandbox.path(name)).unwrap();
    sandbox.write(&format!("{name}/config.json"), config.to_string());
    let vectors = vectors(name);
    let weights: Vec<_> = vectors
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("weight.")?.to_owned(), tensor)))
        .collect();
    safetensors::save(&sandbox.path(name).join("model.safetensors"), &weights, None).unwrap();
}

/// Writes tensors to a file of the sandbox.
pub(crate) fn write_tensors(sandbox: &Sandbox, file: &str, tensors: &[(&str, &Tensor)]) {
    let named: Vec<_> =
        tensors.iter().map(|(name, tensor)| ((*name).to_owned(), *tensor)).collect();
    safetensors::save(&sandbox.path(file), &named, None).unwrap();
}
