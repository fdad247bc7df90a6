//! Sentence embeddings, by the rules of sentence-transformers (arXiv 1908.10084).
//!
//! | module | holds |
//! | --- | --- |
//! | `pooling` | one vector of a sequence's hidden states: formulas alone |
//! | `modules` | what a folder's `modules.json` says comes after the transformer |
//! | `dense` | a linear map after pooling |
//! | `batches` | texts of like length together, padded |
//! | `rows` | vectors of texts that lie side by side in rows, to be trained |
//! | `save` | a folder of sentence-transformers |
//!
//! A folder of sentence-transformers and a plain model folder are read alike; the latter's vectors
//! are means. With a folder that holds MiniLM and any tokenizer:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use bert4rs_models::embedding::SentenceEncoder;
//! use bert4rs_models::pretrained::LoadOptions;
//!
//! # fn tokenize(text: &str) -> Vec<u32> { vec![101, 2023, 102] }
//! # fn main() -> Result<(), bert4rs_models::Error> {
//! let encoder = SentenceEncoder::load(Path::new("minilm"), LoadOptions::default())?;
//! let texts = ["A man is eating food.", "A man is eating a piece of bread."];
//! let ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenize(text)).collect();
//! let vectors = encoder.embed(&ids, 32)?;
//! println!("{:?}", vectors.size());
//! # Ok(())
//! # }
//! ```
//!
//! Axes: `b` batch, `t` time, `d` features.

mod batches;
mod dense;
mod modules;
mod pooling;
mod rows;
mod save;

use std::path::Path;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Tensor, no_grad};

pub use modules::SentenceModules;
pub use pooling::{Pooling, PoolingMode};

use crate::error::{Error, Result};
use crate::hugging_face::Folder;
use crate::pretrained::{LoadOptions, Pretrained};
use modules::ModuleStep;

/// A model that makes a vector of a text.
#[derive(Debug)]
pub struct SentenceEncoder {
    pretrained: Pretrained,
    modules: SentenceModules,
    /// The token that fills up shorter texts; it is masked.
    pad: i64,
}

impl SentenceEncoder {
    /// Reads the model in `folder`, and what sentence-transformers' files there say of pooling,
    /// further maps, normalisation and prompts.
    ///
    /// # Errors
    /// As [`Pretrained::load`]; a module, or a value of one, that we don't compute.
    pub fn load(folder: &Path, options: LoadOptions) -> Result<Self> {
        let modules = SentenceModules::read(folder, options)?;
        let transformer = Folder::open(&folder.join(&modules.transformer))?;
        let pretrained = Pretrained::encoder_from_folder(&transformer, options)?;
        let pad = transformer.raw_config()["pad_token_id"].as_i64().unwrap_or(0);
        Ok(Self { pretrained, modules, pad })
    }

    /// The model below the pooling.
    pub fn pretrained(&self) -> &Pretrained {
        &self.pretrained
    }

    /// Where the model and its tokenizer lie within the folder; empty for the folder itself.
    pub fn transformer_folder(&self) -> &Path {
        &self.modules.transformer
    }

    /// Pools otherwise than the folder says.
    pub fn set_pooling(&mut self, pooling: Pooling) {
        self.modules.pooling = pooling;
    }

    /// Makes every vector's length 1, whatever the folder says.
    pub fn normalize(&mut self) {
        if !matches!(self.modules.steps.last(), Some(ModuleStep::Normalize)) {
            self.modules.steps.push(ModuleStep::Normalize);
        }
    }

    /// The prompt of that name in `config_sentence_transformers.json`; without a name, the one
    /// that is its default, if any, or nothing.
    ///
    /// # Errors
    /// A name that the folder does not have.
    pub fn prompt(&self, name: Option<&str>) -> Result<&str> {
        let Some(name) = name.or(self.modules.default_prompt.as_deref()) else { return Ok("") };
        self.modules.prompts.get(name).map(String::as_str).ok_or_else(|| {
            let known: Vec<_> = self.modules.prompts.keys().map(String::as_str).collect();
            let expected = match known.is_empty() {
                true => "none: the model has no prompts".to_owned(),
                false => format!("one of {}", known.join(", ")),
            };
            Error::Input { name: "prompt name", found: format!("{name:?}"), expected }
        })
    }

    /// What the tokenizer is to read for `text`, after the prompt.
    pub fn text(&self, prompt: &str, text: &str) -> String {
        self.modules.text(format!("{prompt}{text}"))
    }

    /// Whether the prompt's tokens are left out of the pooling.
    pub fn leaves_prompt_out(&self) -> bool {
        !self.modules.include_prompt
    }

    /// The most tokens of a text: what the model has positions for and was trained with, or else
    /// what its tokenizer allows.
    pub fn max_tokens(&self, tokenizer_allows: Option<usize>) -> usize {
        let trained = self.modules.max_tokens.or(tokenizer_allows).unwrap_or(usize::MAX);
        self.pretrained.longest().unwrap_or(usize::MAX).min(trained).max(2)
    }

    /// A vector for each text, `[texts, d]` in FP32 on the CPU, in their order; computed
    /// `batch_size` at once, texts of like length together.
    ///
    /// `ids` are each text's tokens, with those that the tokenizer puts around them.
    ///
    /// # Errors
    /// No text, a text without tokens, tokens that the model does not have or has no positions
    /// for; what libtorch throws.
    pub fn embed(&self, ids: &[Vec<u32>], batch_size: usize) -> Result<Tensor> {
        self.embed_prompted(ids, 0, batch_size)
    }

    /// [`embed`](Self::embed) of texts that begin with a prompt of `prompt_tokens` tokens, which
    /// do not count in the pooling of models that [leave it out](Self::leaves_prompt_out).
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_prompted(
        &self,
        ids: &[Vec<u32>],
        prompt_tokens: usize,
        batch_size: usize,
    ) -> Result<Tensor> {
        let left_out = if self.leaves_prompt_out() { prompt_tokens as i64 } else { 0 };
        batches::check(ids, batch_size)?;
        let order = batches::by_length(ids);
        let parts: Vec<Tensor> = order
            .chunks(batch_size)
            .map(|rows| self.embed_batch(&batches::pad(ids, rows, self.pad), left_out))
            .collect::<Result<_>>()?;
        let sorted = Tensor::f_cat(&parts, 0).during("embeddings")?;
        let order: Vec<i64> = order.into_iter().map(|row| row as i64).collect();
        let places = Tensor::from_slice(&order).argsort(-1, false);
        Ok(sorted.index_select(0, &places))
    }

    /// `[b, d]` in FP32 on the CPU.
    fn embed_batch(&self, [ids_bt, keep_bt]: &[Tensor; 2], left_out: i64) -> Result<Tensor> {
        no_grad(|| {
            let device = self.pretrained.params().device();
            let (ids_bt, keep_bt) = (ids_bt.to_device(device), keep_bt.to_device(device));
            let hidden_btd = self.pretrained.hidden_states(&ids_bt, &keep_bt)?;
            let x_bd = self.modules.vectors(&hidden_btd, &keep_bt, left_out)?;
            Ok(x_bd.to_kind(Kind::Float).to_device(Device::Cpu))
        })
    }
}
