//! Model folders in Hugging Face's layout: `config.json` and weights in safetensors files.
//!
//! Our parameters have transformers' names from birth, so that a folder is a dump of the store.
//! What differs between folders of one family (models with and without a head, older names,
//! transposed matrices) is stated in one place, the family's [`PretrainedConfig`].

mod architecture;
mod config;
mod files;
mod folder;
mod heads;
mod save;
mod vocabulary;

pub use architecture::{Architecture, HeadKind, ModelType};
pub use config::PretrainedConfig;
pub(crate) use files::{from_keys, read_json};
pub use folder::{Folder, Loaded};
pub use save::{save, save_bert_for_masked_lm};
