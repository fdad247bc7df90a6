//! Writing a tokenizer so that transformers' `AutoTokenizer` gives the same ids.

use std::path::Path;

use bert4rs_tensor_core::safetensors::write_atomic;
use serde_json::{Value, json};
use tokenizers::{ModelWrapper, Tokenizer};

use super::{ModelTokenizer, SpecialNames, TextTokenizer, bad};
use crate::error::Result;

/// The file beside `tokenizer.json` that names the special tokens.
pub const CONFIG_FILE: &str = "tokenizer_config.json";

impl TextTokenizer {
    /// Writes `tokenizer.json` and [`CONFIG_FILE`] to `folder`, which exists, for a model of at
    /// most `max_length` tokens.
    ///
    /// # Errors
    /// A place that can't be written.
    pub fn save_folder(&self, folder: &Path, max_length: usize) -> Result<()> {
        save(&self.inner, &self.origin, folder, max_length)
    }
}

impl ModelTokenizer {
    /// As [`TextTokenizer::save_folder`].
    ///
    /// # Errors
    /// A place that can't be written.
    pub fn save_folder(&self, folder: &Path, max_length: usize) -> Result<()> {
        save(&self.inner, &self.origin, folder, max_length)
    }
}

fn save(inner: &Tokenizer, origin: &str, folder: &Path, max_length: usize) -> Result<()> {
    let json = inner.to_string(false).map_err(|error| bad(origin, error.to_string()))?;
    write_atomic(&folder.join("tokenizer.json"), json.as_bytes())?;
    let text = format!("{:#}\n", config(inner, max_length));
    Ok(write_atomic(&folder.join(CONFIG_FILE), text.as_bytes())?)
}

/// The class is the one that takes `tokenizer.json` as it is; others build their own steps.
fn config(tokenizer: &Tokenizer, max_length: usize) -> Value {
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": false,
    });
    let mut names = SpecialNames::usual(tokenizer);
    // A batch needs a padding token; which one does not matter where it is masked.
    names.pad = names.pad.or(names.eos.clone());
    for (key, name) in names.known() {
        config[key] = name.into();
    }
    config["model_input_names"] = match tokenizer.get_model() {
        ModelWrapper::WordPiece(_) => json!(["input_ids", "token_type_ids", "attention_mask"]),
        // GPT-2 would add token types to its embeddings, and T5 has none.
        _ => json!(["input_ids", "attention_mask"]),
    };
    config
}
