//! Writing a model folder.

use std::collections::HashMap;
use std::path::Path;

use bert4rs_tensor_core::param::{Param, ParamStore};
use bert4rs_tensor_core::{Kind, Tensor, safetensors};
use serde_json::{Value, json};

use super::{Architecture, PretrainedConfig};
use crate::bert::BertConfig;
use crate::error::{Error, Result};

/// Writes `config.json` and `model.safetensors` to `folder`, which exists, so that transformers'
/// class of that architecture loads them with no missing and no unexpected keys. Weights are the
/// exact ones: FP32 masters where the model computes in BF16. Tied weights are stored once.
///
/// `store` holds the model made at its root; `extra` is an object of further keys for
/// `config.json`, such as `id2label`. A model with [overrides](crate::overrides) is one that
/// transformers does not have: its `model_type` says so.
pub fn save<C: PretrainedConfig>(
    folder: &Path,
    config: &C,
    architecture: Architecture,
    store: &ParamStore,
    extra: Value,
) -> Result<()> {
    let path = folder.join("config.json");
    let bad =
        |error: serde_json::Error| Error::File { path: path.clone(), reason: error.to_string() };
    let params = store.params();
    let kind = params.first().map_or(Kind::Float, |param| param.master_or_weight().kind());
    let model_type = if config.overrides().is_published() {
        config.model_type().name().to_owned()
    } else {
        format!("bert4rs-{}", config.model_type().name())
    };
    let identity = json!({
        "architectures": [architecture.to_string()],
        "model_type": model_type,
        "torch_dtype": dtype_name(kind),
    });
    let mut values = config.to_json().map_err(bad)?;
    for more in [config.fixed(), identity, extra] {
        if let (Some(values), Value::Object(more)) = (values.as_object_mut(), more) {
            values.extend(more);
        }
    }
    let text = serde_json::to_string_pretty(&values).map_err(bad)? + "\n";
    let stored: Vec<_> =
        params.iter().map(|param| (param.name.clone(), as_stored(config, param))).collect();
    let tensors: Vec<_> = stored.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    // Weights first: a folder with a config.json is a whole one.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::save(&folder.join("model.safetensors"), &tensors, Some(metadata))?;
    Ok(safetensors::write_atomic(&path, text.as_bytes())?)
}

/// [`save`] for a [`BertForMaskedLm`](crate::bert::BertForMaskedLm).
pub fn save_bert_for_masked_lm(
    folder: &Path,
    config: &BertConfig,
    store: &ParamStore,
) -> Result<()> {
    save(folder, config, Architecture::BERT_FOR_MASKED_LM, store, json!({}))
}

fn as_stored<C: PretrainedConfig>(config: &C, param: &Param) -> Tensor {
    let exact = param.master_or_weight();
    if config.is_transposed(&param.name) { exact.transpose(0, 1) } else { exact.shallow_clone() }
}

/// The dtype's name in `config.json`.
fn dtype_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        Kind::Double => "float64",
        _ => "float32",
    }
}
