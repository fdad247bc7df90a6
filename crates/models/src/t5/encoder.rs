//! T5's encoder with its table of tokens.
//!
//! Axes: `b` batch, `s` time, `d` features.

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::{Init, ParamPath};

use super::T5Config;
use super::stack::Stack;
use crate::checkpointing::ActivationCheckpointing;
use crate::error::Result;
use crate::input;
use crate::layers::{AttentionBackend, Embedding, Linear};
use crate::mask;

/// The encoder alone, as transformers' `T5EncoderModel`.
#[derive(Debug)]
pub struct T5Encoder {
    config: T5Config,
    pub(super) tokens: Embedding,
    pub(super) stack: Stack,
}

impl T5Encoder {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &T5Config,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        config.validate()?;
        let (v, d) = (config.vocab_size, config.d_model);
        let init = Init::Normal(config.initializer_factor);
        let tokens = Embedding::new(&(path / "shared"), v, d, None, init)?;
        let stack = Stack::encoder(&(path / "encoder"), config, implementation)?;
        Ok(Self { config: config.clone(), tokens, stack })
    }

    /// Its blocks' maps, to be changed.
    pub fn maps_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.stack.maps_mut()
    }

    /// Chooses what activation checkpointing drops and recomputes; nothing at first.
    pub fn set_activation_checkpointing(&mut self, checkpointing: ActivationCheckpointing) {
        self.stack.set_activation_checkpointing(checkpointing);
    }

    /// The code that computed attention when the model was first used; absent before.
    pub fn attention_backend(&self) -> Option<AttentionBackend> {
        self.stack.attention_backend()
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Hidden states `[b, s, d]` of tokens `[b, s]`, I64. Dropout acts if `train`.
    ///
    /// # Errors
    /// Shapes and dtypes that don't fit; attention dropout that the implementation can't do.
    pub fn forward(&self, ids_bs: &Tensor, mask: Option<&Tensor>, train: bool) -> Result<Tensor> {
        let (b, s) = input::batch_and_time("input_ids", ids_bs)?;
        if let Some(mask) = mask {
            mask::check("mask", mask, [b, self.config.num_heads, s, s])?;
        }
        self.stack.forward(&self.tokens.forward(ids_bs)?, mask, None, None, train)
    }
}
