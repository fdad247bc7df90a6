//! BERT, GPT and T5, from parts that they share: to train, and to use as published.
//!
//! | module | holds |
//! | --- | --- |
//! | [`bert`], [`gpt`], [`t5`] | a family's configuration, wiring and heads |
//! | [`layers`] | the parts, each written once |
//! | [`overrides`] | departures from the published forms, one set for all families |
//! | [`mask`] | which tokens attend to which |
//! | [`checkpointing`] | activations recomputed in the backward pass, to save memory |
//! | [`loss`] | cross-entropy with FP32 statistics, label smoothing, z-loss |
//! | [`visible_pairs`] | keys that queries see, by which attention's cost is counted |
//! | [`hugging_face`] | model folders that transformers reads and writes |
//! | [`pretrained`] | a model folder's model, whatever its architecture |
//! | [`embedding`] | sentence embeddings, as sentence-transformers makes them |
//! | [`generation`] | text token by token: greedy, sampled, by beams |
//!
//! A model folder is one of Hugging Face's: `config.json` and `model.safetensors`. This writes a
//! small GPT, loads it as one would a published one, and lets it go on from a prompt. Text becomes
//! tokens, and tokens text, by `bert4rs_data::ModelTokenizer` or any other tokenizer.
//!
//! ```
//! use bert4rs_models::generation::{GenerationConfig, Generator, Strategy, generate};
//! use bert4rs_models::gpt::{Gpt, GptConfig};
//! use bert4rs_models::hugging_face::{Architecture, save};
//! use bert4rs_models::pretrained::{LoadOptions, Model, Pretrained};
//! use bert4rs_tensor_core::attention::AttentionImplementation::Fused;
//! use bert4rs_tensor_core::param::ParamStore;
//! use bert4rs_tensor_core::{Device, Kind};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let config =
//!     GptConfig { vocab_size: 100, n_embd: 32, n_layer: 2, n_head: 4, ..GptConfig::default() };
//! let params = ParamStore::new(Device::Cpu, Kind::Float);
//! Gpt::new(&params.root(), &config, Fused)?;
//! let architecture = Architecture::GPT2_LM_HEAD_MODEL;
//! save(folder.path(), &config, architecture, &params, serde_json::json!({}))?;
//!
//! let pretrained = Pretrained::load(folder.path(), LoadOptions::default())?;
//! let Model::Gpt(gpt) = pretrained.model() else { unreachable!("it was saved as a GPT") };
//! let generation = GenerationConfig {
//!     max_new_tokens: 5,
//!     strategy: Strategy::Greedy,
//!     repetition_penalty: 1.0,
//!     ends: Vec::new(),
//!     cache: true,
//! };
//! let prompt = vec![3, 14, 15];
//! let made = generate(Generator::Gpt(gpt), &[prompt], &generation, &mut |_row, _token| {})?;
//! assert_eq!(made[0].len(), 5);
//! # Ok(())
//! # }
//! ```
//!
//! Model code names its axes: `x_btd` is a tensor of batch × time × features. Each file has its
//! legend. Parameters carry their Hugging Face names from birth, so that saving a model is a dump
//! of its store.
//!
//! Errors: what a user's configuration, input or file can cause is an [`Error`]. A wrong shape
//! between two layers is a programmer's error and panics as in `tch`.

pub mod bert;
mod check;
pub mod checkpointing;
pub mod embedding;
pub mod error;
pub mod generation;
pub mod gpt;
pub mod hugging_face;
mod input;
pub mod layers;
pub mod loss;
pub mod mask;
pub mod overrides;
pub mod pretrained;
pub mod t5;
pub mod visible_pairs;

pub use error::{Error, Result};
