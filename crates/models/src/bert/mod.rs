//! BERT (Devlin et al., arXiv 1810.04805), a bidirectional encoder, and its
//! [relatives](BertVariant): RoBERTa, XLM-R, DistilBERT, ELECTRA, ModernBERT.
//!
//! | module | holds |
//! | --- | --- |
//! | `config`, `relatives` | the configuration, and what each relative calls and does differently |
//! | `wiring` | shared parts, put together by the configuration |
//! | `embeddings` | tokens to the first hidden states |
//! | `transform` | what heads do before their last map |
//! | `heads` | masked tokens, the next sentence |
//! | `discriminator` | replaced tokens |
//! | `fine_tuning` | classes, tags, answers |
//!
//! Axes: `b` batch, `t` time, `d` features, `v` vocabulary, `n` = b·t tokens, `m` masked tokens.

mod config;
mod discriminator;
mod embeddings;
mod fine_tuning;
mod heads;
pub(crate) mod relatives;
mod transform;
mod wiring;

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamPath;
use bert4rs_tensor_core::varlen::AttentionWindow;

pub use config::{BertConfig, BertSize};
pub use discriminator::BertForReplacedTokens;
pub(crate) use discriminator::replaced_loss;
pub use fine_tuning::{
    BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification,
};
pub(crate) use fine_tuning::{classes_loss, mean_of_real};
pub use heads::{BertForMaskedLm, BertForPreTraining, LogitsOf, MlmLoss};
pub use relatives::{BertVariant, ClassifierPooling, ModernBert};
pub use transform::Pooler;

use crate::checkpointing::ActivationCheckpointing;
use crate::error::Result;
use crate::input;
use crate::layers::{
    AttentionBackend, Block, Linear, Norm, Placement, ResidualStream, Rotary, Rotation,
};
use crate::mask::{self, AttentionMask};
use embeddings::Embeddings;
use wiring::block;

/// What BERT reads.
#[derive(Debug, Clone, Copy)]
pub struct BertInput<'a> {
    /// Tokens `[b, t]`, I64.
    pub input_ids: &'a Tensor,
    /// Sentence of each token, `[b, t]`, I64; all 0 if absent, as they must be in a model that has
    /// no token types.
    pub token_type_ids: Option<&'a Tensor>,
    /// Position of each token, `[b, t]` or `[1, t]`, I64; if absent, counted from
    /// [`BertConfig::first_position`].
    pub position_ids: Option<&'a Tensor>,
    /// True where a query may see a key, broadcast to `[b, heads, t, t]`, or the document of each
    /// token, I64 `[b, t]`; see [`crate::mask`].
    pub mask: Option<&'a Tensor>,
}

impl<'a> BertInput<'a> {
    /// Tokens alone: one sentence each, no padding.
    pub fn new(input_ids: &'a Tensor) -> Self {
        Self { input_ids, token_type_ids: None, position_ids: None, mask: None }
    }

    /// Refuses shapes and dtypes that the model can't take. Values are not looked at.
    fn check_shapes(&self, config: &BertConfig) -> Result<()> {
        let (b, t) = input::batch_and_time("input_ids", self.input_ids)?;
        if self.position_ids.is_none() && config.rotary().is_none() {
            let longest = ("max_position_embeddings", config.longest());
            input::check_length("input_ids", self.input_ids, t, longest)?;
        }
        if let Some(types) = self.token_type_ids {
            if config.type_vocab_size == 0 {
                return Err(input::refuse("token_type_ids", types, "none: the model has no types"));
            }
            input::check_ids("token_type_ids", types, &[[b, t]])?;
        }
        if let Some(positions) = self.position_ids {
            input::check_ids("position_ids", positions, &[[b, t], [1, t]])?;
        }
        match self.mask {
            Some(mask) => mask::check("mask", mask, [b, config.num_attention_heads, t, t]),
            None => Ok(()),
        }
    }

    /// Refuses ids that the model has no entry for. Waits for the device: for the border of a
    /// program, not for each step of training.
    pub fn check_values(&self, config: &BertConfig) -> Result<()> {
        input::check_range("input_ids", self.input_ids, ("vocab_size", config.vocab_size))?;
        if let Some(types) = self.token_type_ids {
            let entries = ("type_vocab_size", config.type_vocab_size);
            input::check_range("token_type_ids", types, entries)?;
        }
        match self.position_ids {
            Some(positions) if config.rotary().is_none() => {
                let entries = ("max_position_embeddings", config.max_position_embeddings);
                input::check_range("position_ids", positions, entries)
            }
            _ => Ok(()),
        }
    }
}

/// The encoder: embeddings and blocks, without a head.
#[derive(Debug)]
pub struct BertModel {
    config: BertConfig,
    embeddings: Embeddings,
    blocks: Vec<Block>,
    /// With [`Placement::Pre`], after the last block.
    final_norm: Option<Norm>,
    checkpointing: ActivationCheckpointing,
}

/// What all blocks of one kind attend with.
#[derive(Debug)]
struct AttentionContext {
    mask: AttentionMask,
    rotation: Option<Rotation>,
}

impl BertModel {
    /// Makes its parameters under `path`, which is `bert` in models with a head, or what the
    /// relative's files have there.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        config.validate()?;
        let names = config.variant.names();
        let embeddings = Embeddings::new(path, config)?;
        let blocks_path = path / names.blocks;
        let blocks = (0..config.num_hidden_layers)
            .map(|index| block(&(&blocks_path / index), config, implementation, index == 0))
            .collect::<Result<_>>()?;
        let final_norm = match config.placement() {
            Placement::Pre => Some(config.norm(&(path / names.final_norm), config.hidden_size)?),
            Placement::Post => None,
        };
        let checkpointing = ActivationCheckpointing::None;
        Ok(Self { config: config.clone(), embeddings, blocks, final_norm, checkpointing })
    }

    /// Makes its parameters where a model with a head has them, below its root.
    pub(crate) fn under_root(
        root: &ParamPath,
        config: &BertConfig,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        Self::new(&(root / config.variant.names().base), config, implementation)
    }

    /// Says that an output layer has the weight of the token table.
    pub(super) fn tie(&mut self) {
        self.embeddings.words.tie();
    }

    /// Chooses what activation checkpointing drops and recomputes; nothing at first.
    pub fn set_activation_checkpointing(&mut self, checkpointing: ActivationCheckpointing) {
        self.checkpointing = checkpointing;
    }

    /// Its blocks' maps, to be changed.
    pub fn maps_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(Block::maps_mut)
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The code that computed attention when the model was first used; absent before.
    pub fn attention_backend(&self) -> Option<AttentionBackend> {
        self.blocks.first().and_then(|block| block.attention.backend())
    }

    /// Hidden states `[b, t, d]` in the weights' dtype. Dropout acts if `train`.
    ///
    /// # Errors
    /// Shapes and dtypes that don't fit; attention dropout that the implementation can't do.
    pub fn forward(&self, input: &BertInput, train: bool) -> Result<Tensor> {
        input.check_shapes(&self.config)?;
        let x_btd = self.embeddings.forward(input, train)?;
        let config = &self.config;
        let context = |window, rotary| AttentionContext::new(config, input, &x_btd, window, rotary);
        let global = context(config.attention_window(), config.rotary());
        let modern = config.variant.modern();
        let local = modern.zip(config.local_window()).map(|(modern, window)| {
            context(window, config.overrides.rotary.or(Some(modern.local_rotary)))
        });
        let is_local = |index| modern.is_some_and(|modern| modern.is_local[index]);
        let mut x_btd = ResidualStream::from(x_btd);
        for (index, block) in self.blocks.iter().enumerate() {
            let AttentionContext { mask, rotation } = match &local {
                Some(local) if is_local(index) => local,
                _ => &global,
            };
            x_btd = match self.checkpointing {
                ActivationCheckpointing::Blocks if train => {
                    block.forward_checkpointed(&x_btd.whole(), mask, rotation.as_ref())?.into()
                }
                _ => block.forward(x_btd, mask, rotation.as_ref(), None, train)?,
            };
        }
        Ok(match &self.final_norm {
            Some(norm) => norm.last(x_btd)?,
            None => x_btd.whole(),
        })
    }
}

impl AttentionContext {
    /// For the first hidden states `x_btd`.
    fn new(
        config: &BertConfig,
        input: &BertInput,
        x_btd: &Tensor,
        window: AttentionWindow,
        rotary: Option<Rotary>,
    ) -> Self {
        let t = input.input_ids.size()[1];
        let mask = AttentionMask::new(window, [t, t], input.mask, x_btd.device());
        let rotation = rotary.map(|rotary| {
            let (head_size, kind) = (config.head_size(), x_btd.kind());
            match input.position_ids {
                Some(ids) => rotary.rotation(ids, head_size, kind),
                None => rotary.rotation_of_range(0, t, head_size, kind, x_btd.device()),
            }
        });
        Self { mask, rotation }
    }
}
