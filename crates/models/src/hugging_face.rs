//! Model folders in Hugging Face's layout.

use std::collections::HashMap;
use std::path::Path;

use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Kind, safetensors};
use serde_json::{Value, json};

use crate::bert::BertConfig;
use crate::error::Result;

/// Writes `config.json` and `model.safetensors` to `folder`, which exists, so that transformers'
/// `BertForMaskedLM.from_pretrained` loads them. Weights are the exact ones: FP32 masters where
/// the model computes in BF16.
///
/// `store` holds a [`BertForMaskedLm`](crate::bert::BertForMaskedLm) made at its root.
pub fn save_bert_for_masked_lm(
    folder: &Path,
    config: &BertConfig,
    store: &ParamStore,
) -> Result<()> {
    let params = store.params();
    let tensors: Vec<_> = params.iter().map(|param| (param.name.clone(), param.exact())).collect();
    let kind = params.first().map_or(Kind::Float, |param| param.exact().kind());
    let mut values = serde_json::to_value(config).map_err(|error| bad_config(folder, &error))?;
    let fixed = json!({
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "tie_word_embeddings": true,
        "torch_dtype": dtype_name(kind),
    });
    merge(&mut values, fixed);
    let text = serde_json::to_string_pretty(&values).map_err(|error| bad_config(folder, &error))?;
    // Weights first: a folder with a config.json is a whole one.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::save(&folder.join("model.safetensors"), &tensors, Some(metadata))?;
    Ok(safetensors::write_whole(&folder.join("config.json"), (text + "\n").as_bytes())?)
}

/// Puts the keys of `extra` into `values`; both are objects.
fn merge(values: &mut Value, extra: Value) {
    if let (Some(values), Value::Object(extra)) = (values.as_object_mut(), extra) {
        values.extend(extra);
    }
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

fn bad_config(folder: &Path, error: &serde_json::Error) -> crate::Error {
    crate::Error::File { path: folder.join("config.json"), reason: error.to_string() }
}
