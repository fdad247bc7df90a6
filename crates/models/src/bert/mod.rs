//! BERT (Devlin et al., arXiv 1810.04805): a bidirectional encoder with post-norm blocks.
//!
//! Axes: `b` batch, `t` time, `d` features, `v` vocabulary, `n` = b·t tokens, `m` masked tokens.

mod config;
mod fine_tuning;
mod heads;

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::attention::Implementation;
use bert4rs_tensor_core::param::{Init, ParamPath};
use bert4rs_tensor_core::varlen::AttentionWindow;

pub use config::{BertConfig, BertSize};
pub use fine_tuning::{
    BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification,
};
pub use heads::{BertForMaskedLm, BertForPreTraining, LogitsOf, MlmLoss};

use crate::checkpointing::ActivationCheckpointing;
use crate::error::Result;
use crate::input;
use crate::layers::attention::{MultiHeadInit, MultiHeadPaths};
use crate::layers::feed_forward::{FeedForwardPaths, Gated};
use crate::layers::{
    AttentionBackend, Biased, Block, Dropout, Embedding, FeedForward, FeedForwardConfig,
    FeedForwardKind, Linear, MultiHeadAttention, MultiHeadConfig, Norm, NormKind, Placement,
    Residual, ResidualStream,
};
use crate::mask::{self, AttentionMask};

/// What BERT reads.
#[derive(Debug, Clone, Copy)]
pub struct BertInput<'a> {
    /// Tokens `[b, t]`, I64.
    pub input_ids: &'a Tensor,
    /// Sentence of each token, `[b, t]`, I64; all 0 if absent.
    pub token_type_ids: Option<&'a Tensor>,
    /// Position of each token, `[b, t]` or `[1, t]`, I64; 0 to t-1 if absent.
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
        if self.position_ids.is_none() && config.overrides.rotary.is_none() {
            let longest = ("max_position_embeddings", config.max_position_embeddings);
            input::check_length("input_ids", self.input_ids, t, longest)?;
        }
        if let Some(types) = self.token_type_ids {
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
            Some(positions) if config.overrides.rotary.is_none() => {
                let entries = ("max_position_embeddings", config.max_position_embeddings);
                input::check_range("position_ids", positions, entries)
            }
            _ => Ok(()),
        }
    }
}

/// The published choices, or what the overrides put instead.
impl BertConfig {
    fn norm(&self, path: &ParamPath) -> Result<Norm> {
        let kind = self.overrides.norm.unwrap_or(NormKind::Layer);
        Ok(Norm::new(path, kind, self.hidden_size, self.layer_norm_eps)?)
    }

    fn placement(&self) -> Placement {
        self.overrides.norm_placement.unwrap_or(Placement::Post)
    }

    fn dropout(&self) -> Dropout {
        Dropout { probability: self.hidden_dropout_prob }
    }

    fn init(&self) -> Init {
        Init::Normal(self.initializer_range)
    }

    fn init_of_outputs(&self) -> Init {
        if self.overrides.zero_init_outputs { Init::Zeros } else { self.init() }
    }

    fn attention_window(&self) -> AttentionWindow {
        AttentionWindow { causal: false, window: self.overrides.window }
    }

    fn feed_forward(&self) -> FeedForwardConfig {
        let (activation, gated) = self
            .overrides
            .feed_forward
            .map_or((self.hidden_act, Gated::No), FeedForwardKind::parts);
        FeedForwardConfig {
            hidden: self.hidden_size,
            inner: self.intermediate_size,
            activation,
            gated,
            biased: self.overrides.biased(),
            dropout: Dropout { probability: 0.0 },
            init_up: self.init(),
            init_down: self.init_of_outputs(),
        }
    }

    fn attention(&self, implementation: Implementation) -> MultiHeadConfig {
        MultiHeadConfig {
            hidden: self.hidden_size,
            heads: self.num_attention_heads,
            kv_heads: self.overrides.kv_heads.unwrap_or(self.num_attention_heads),
            head_size: self.head_size(),
            biased: self.overrides.biased(),
            scale: None,
            qk_norm: self.overrides.qk_norm.then_some(self.layer_norm_eps),
            implementation,
            dropout: self.attention_probs_dropout_prob,
            init: MultiHeadInit {
                query: self.init(),
                key_value: self.init(),
                output: self.init_of_outputs(),
            },
        }
    }

    /// Floating-point operations of training on one token, forward and backward: those of matrix
    /// products alone, at two a multiply-add, with logits for masked tokens alone.
    ///
    /// `3 · 2 · [layers · (4 d² + 2 d f + 2 t d) + masked · (d² + d v)]` with features `d`, inner
    /// features `f`, sequence length `t`, vocabulary `v`: the backward pass does each product
    /// twice, once for each operand; `2 t d` is `q kᵀ` and its product with the values. A gate,
    /// grouped heads and a window count as what they are.
    pub fn flops_per_token(&self, seq_len: i64, masked_fraction: f64) -> f64 {
        let (d, v) = (self.hidden_size as f64, self.vocab_size as f64);
        let keys = self.overrides.window.map_or(seq_len, |window| seq_len.min(2 * window - 1));
        let attention = self.attention(Implementation::Plain).products(keys as f64);
        let layer = attention + self.feed_forward().products();
        6.0 * (self.num_hidden_layers as f64 * layer + masked_fraction * (d * d + d * v))
    }
}

/// The tables of tokens, positions and token types; their sum is normalised.
#[derive(Debug)]
struct Embeddings {
    words: Embedding,
    /// Absent with rotary positions.
    positions: Option<Embedding>,
    token_types: Embedding,
    norm: Norm,
    dropout: Dropout,
}

impl Embeddings {
    fn new(path: &ParamPath, config: &BertConfig) -> Result<Self> {
        let table = |name: &str, entries, padding| {
            Embedding::new(&(path / name), entries, config.hidden_size, padding, config.init())
        };
        let words = table("word_embeddings", config.vocab_size, config.pad_token_id)?;
        let positions = match config.overrides.rotary {
            None => Some(table("position_embeddings", config.max_position_embeddings, None)?),
            Some(_) => None,
        };
        let token_types = table("token_type_embeddings", config.type_vocab_size, None)?;
        let norm = config.norm(&(path / "LayerNorm"))?;
        Ok(Self { words, positions, token_types, norm, dropout: config.dropout() })
    }

    /// `[b, t]` ids to `[b, t, d]`.
    fn forward(&self, input: &BertInput, train: bool) -> Result<Tensor> {
        // Without ids, rows are taken as views and broadcast, which is cheaper than looking up.
        let mut added = match input.token_type_ids {
            Some(ids) => self.token_types.forward(ids)?,
            None => self.token_types.weight.select(0, 0),
        };
        if let Some(positions) = &self.positions {
            added = match input.position_ids {
                Some(ids) => positions.forward(ids)? + added,
                None => positions.weight.narrow(0, 0, input.input_ids.size()[1]) + added,
            };
        }
        let sum_btd = self.words.forward(input.input_ids)? + added;
        Ok(self.dropout.forward(self.norm.forward(&sum_btd)?, train))
    }
}

/// Attention, then feed-forward, each with its residual connection: as published, `norm(x +
/// attention(x))`, then `norm(x + feed_forward(x))`.
fn block(path: &ParamPath, config: &BertConfig, implementation: Implementation) -> Result<Block> {
    let attention = MultiHeadPaths::Separate {
        query: path / "attention.self.query",
        key: path / "attention.self.key",
        value: path / "attention.self.value",
        output: path / "attention.output.dense",
        norms: path / "attention.self",
    };
    let feed_forward = FeedForwardPaths {
        gate: path / "intermediate.gate",
        up: path / "intermediate.dense",
        down: path / "output.dense",
    };
    let residual = |name: &str| -> Result<Residual> {
        let (placement, dropout) = (config.placement(), config.dropout());
        Ok(Residual { placement, norm: config.norm(&(path / name))?, dropout })
    };
    Ok(Block {
        attention: MultiHeadAttention::new(&attention, &config.attention(implementation))?,
        around_attention: residual("attention.output.LayerNorm")?,
        feed_forward: FeedForward::new(&feed_forward, &config.feed_forward())?,
        around_feed_forward: residual("output.LayerNorm")?,
    })
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

/// One vector for a sequence: `tanh` of a map of its first token, for heads.
#[derive(Debug)]
pub struct Pooler {
    dense: Linear,
}

impl Pooler {
    /// Makes its parameters under `path`, which is `bert.pooler`.
    pub fn new(path: &ParamPath, config: &BertConfig) -> Result<Self> {
        let d = config.hidden_size;
        let dense = Linear::new(&(path / "dense"), d, d, Biased::Yes, config.init())?;
        Ok(Self { dense })
    }

    /// `[b, t, d]` to `[b, d]`.
    pub fn forward(&self, hidden_btd: &Tensor) -> Tensor {
        self.dense.forward(&hidden_btd.select(1, 0)).tanh()
    }
}

impl BertModel {
    /// Makes its parameters under `path`, which is `bert` in models with a head.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        implementation: Implementation,
    ) -> Result<Self> {
        config.validate()?;
        let embeddings = Embeddings::new(&(path / "embeddings"), config)?;
        let encoder = path / "encoder";
        let blocks = (0..config.num_hidden_layers)
            .map(|index| block(&(&encoder / "layer" / index), config, implementation))
            .collect::<Result<_>>()?;
        let final_norm = match config.placement() {
            Placement::Pre => Some(config.norm(&(&encoder / "final_norm"))?),
            Placement::Post => None,
        };
        let checkpointing = ActivationCheckpointing::None;
        Ok(Self { config: config.clone(), embeddings, blocks, final_norm, checkpointing })
    }

    /// Says that an output layer has the weight of the token table.
    pub(super) fn tie(&mut self) {
        self.embeddings.words.tie();
    }

    /// Chooses what activation checkpointing drops and recomputes; nothing at first.
    pub fn set_activation_checkpointing(&mut self, checkpointing: ActivationCheckpointing) {
        self.checkpointing = checkpointing;
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
        let t = input.input_ids.size()[1];
        let x_btd = self.embeddings.forward(input, train)?;
        let window = self.config.attention_window();
        let mask = AttentionMask::new(window, [t, t], input.mask, x_btd.device());
        let rotation = self.config.overrides.rotary.map(|rotary| {
            let (head_size, kind) = (self.config.head_size(), x_btd.kind());
            match input.position_ids {
                Some(ids) => rotary.rotation(ids, head_size, kind),
                None => rotary.rotation_of_range(0, t, head_size, kind, x_btd.device()),
            }
        });
        let mut x_btd = ResidualStream::from(x_btd);
        for block in &self.blocks {
            x_btd = match self.checkpointing {
                ActivationCheckpointing::Blocks if train => {
                    block.forward_checkpointed(&x_btd.whole(), &mask, rotation.as_ref())?.into()
                }
                _ => block.forward(x_btd, &mask, rotation.as_ref(), None, train)?,
            };
        }
        Ok(match &self.final_norm {
            Some(norm) => norm.last(x_btd)?,
            None => x_btd.whole(),
        })
    }
}
