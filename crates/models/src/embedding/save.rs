//! What sentence-transformers reads beside a model's own files.

use std::path::Path;

use bert4rs_tensor_core::Error as Core;
use bert4rs_tensor_core::safetensors::write_atomic;
use serde_json::{Map, Value, json};

use super::SentenceModules;
use super::modules::{ModuleStep, POOLING_FLAGS};
use crate::error::{Error, Result};

/// Its prompts.
const PROMPTS: &str = "config_sentence_transformers.json";

impl SentenceModules {
    /// Writes what makes `folder`, which holds a transformer of `features` features and its
    /// tokenizer, one of sentence-transformers: `modules.json`, `1_Pooling` and what else there
    /// is, for texts of at most `longest` tokens.
    ///
    /// # Errors
    /// A place that can't be written.
    pub fn save(&self, folder: &Path, features: i64, longest: usize) -> Result<()> {
        let texts = json!({ "max_seq_length": longest, "do_lower_case": self.lower_case });
        write(folder, "sentence_bert_config.json", &texts)?;
        match self.folder.join(PROMPTS) {
            prompts if prompts.is_file() => copy(&prompts, &folder.join(PROMPTS))?,
            _ => {
                let none = json!({ "prompts": {}, "default_prompt_name": null,
                                   "similarity_fn_name": "cosine" });
                write(folder, PROMPTS, &none)?;
            }
        }
        write(folder, "1_Pooling/config.json", &self.pooling_config(features))?;
        let mut entries = vec![("".to_owned(), "Transformer"), ("1_Pooling".into(), "Pooling")];
        for step in &self.steps {
            let number = entries.len();
            match step {
                ModuleStep::Normalize => entries.push((format!("{number}_Normalize"), "Normalize")),
                ModuleStep::Dense(_, from) => {
                    let path = format!("{number}_Dense");
                    for file in ["config.json", "model.safetensors"] {
                        copy(&self.folder.join(from).join(file), &folder.join(&path).join(file))?;
                    }
                    entries.push((path, "Dense"));
                }
            }
        }
        let entry = |(index, (path, class)): (usize, &(String, &str))| {
            json!({ "idx": index, "name": index.to_string(), "path": path,
                    "type": format!("sentence_transformers.models.{class}") })
        };
        write(folder, "modules.json", &entries.iter().enumerate().map(entry).collect())
    }

    /// As versions before 6 have it, which later ones read too; they have one order of several
    /// modes alone.
    fn pooling_config(&self, features: i64) -> Value {
        let names: Vec<&str> = self.pooling.modes().iter().map(|mode| mode.name()).collect();
        let place = |name: &&str| POOLING_FLAGS.iter().position(|(_, known)| known == name);
        let mut config = Map::new();
        if names.is_sorted_by_key(place) {
            let flags = POOLING_FLAGS.iter();
            config.extend(flags.map(|(flag, name)| ((*flag).into(), names.contains(name).into())));
            config.insert("word_embedding_dimension".into(), features.into());
        } else {
            config.insert("pooling_mode".into(), names.into());
            config.insert("embedding_dimension".into(), features.into());
        }
        config.insert("include_prompt".into(), self.include_prompt.into());
        config.into()
    }
}

fn write(folder: &Path, file: &str, value: &Value) -> Result<()> {
    let path = folder.join(file);
    make_parent(&path)?;
    Ok(write_atomic(&path, format!("{value:#}\n").as_bytes())?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    let io = |source| Error::from(Core::Io { path: from.to_owned(), source });
    std::fs::copy(from, to).map(drop).map_err(io)
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let io = |source| Error::from(Core::Io { path: parent.to_owned(), source });
    std::fs::create_dir_all(parent).map_err(io)
}
