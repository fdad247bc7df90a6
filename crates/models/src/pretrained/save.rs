//! A loaded model written as a whole folder: what `bert4rs` and transformers load.

use std::collections::HashMap;
use std::path::Path;

use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Error as Core, Tensor, safetensors};
use serde_json::json;

use super::Pretrained;
use super::adapters::is_adapter;
use crate::error::{Error, Result};

/// The files that a tokenizer, and the use of the model, may need beside the weights.
const COMPANIONS: [&str; 13] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "encoder.json",
    "vocab.bpe",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "generation_config.json",
];

impl Pretrained {
    /// Writes the model as it is now to `folder`, which is made if need be: the weights, the
    /// configuration that it was read with, and the tokenizer's files of the folder that it was
    /// read from. Weights are the exact ones: FP32 masters where the model computes in BF16.
    /// Adapters are merged into the weights that they stand beside.
    ///
    /// # Errors
    /// The folder that it was read from; a place that can't be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_params(&self.params, folder)
    }

    /// [`save`](Self::save) with parameters that were [taken](Self::take_params).
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_params(&self, params: &ParamStore, folder: &Path) -> Result<()> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::from(Core::Io { path, source })
        };
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        if folder.canonicalize().ok() == self.source.canonicalize().ok() {
            let reason = "the model was read from here; save it in another folder".into();
            return Err(Error::File { path: folder.to_owned(), reason });
        }
        for name in COMPANIONS {
            let from = self.source.join(name);
            if from.is_file() {
                std::fs::copy(&from, folder.join(name)).map_err(io(&from))?;
            }
        }
        let params = params.params();
        let stored: Vec<(String, Tensor)> = params
            .iter()
            .filter(|param| !is_adapter(&param.name))
            .map(|param| {
                let merged = self.merged(param, &params)?;
                Ok((param.name.clone(), self.as_stored(param, merged)))
            })
            .collect::<Result<_>>()?;
        let tensors: Vec<_> = stored.iter().map(|(name, x)| (name.clone(), x)).collect();
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::save(&folder.join("model.safetensors"), &tensors, Some(metadata))?;
        let mut config = self.config.clone();
        config["architectures"] = json!([self.architecture.to_string()]);
        config["model_type"] = match &config["model_type"] {
            serde_json::Value::Null => self.architecture.model_type().name().into(),
            said => said.clone(),
        };
        // Last: a folder with a config.json is a whole one.
        let text = format!("{config:#}\n");
        Ok(safetensors::write_atomic(&folder.join("config.json"), text.as_bytes())?)
    }
}
