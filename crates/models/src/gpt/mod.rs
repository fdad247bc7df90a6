//! GPT-2 (Radford et al. 2019): a causal decoder with pre-norm blocks.
//!
//! Axes: `b` batch, `t` time, `d` features, `v` vocabulary.

mod classification;
mod config;

use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::{Init, ParamPath};
use bert4rs_tensor_core::varlen::AttentionWindow;
use bert4rs_tensor_core::{Device, Kind, Tensor, no_grad_guard};

pub use classification::GptForSequenceClassification;
pub use config::{GptConfig, GptSize};

use crate::checkpointing::ActivationCheckpointing;
use crate::error::Result;
use crate::input;
use crate::layers::attention::{MultiHeadInit, MultiHeadPaths};
use crate::layers::feed_forward::{FeedForwardPaths, Gated};
use crate::layers::{
    AttentionBackend, Block, Dropout, Embedding, FeedForward, FeedForwardConfig, FeedForwardKind,
    KeyValueCache, Linear, MultiHeadAttention, MultiHeadConfig, Norm, NormKind, Placement,
    Residual, ResidualStream,
};
use crate::loss::{Labels, LossOptions, OutputLayer, PredictionScore};
use crate::mask::{self, AttentionMask};
use crate::visible_pairs::mean_visible_keys;

/// What a GPT reads.
#[derive(Debug, Clone, Copy)]
pub struct GptInput<'a> {
    /// Tokens `[b, t]`, I64.
    pub input_ids: &'a Tensor,
    /// Position of each token, `[b, t]` or `[1, t]`, I64; counted from the first token if absent.
    pub position_ids: Option<&'a Tensor>,
    /// True where a query may see a key, broadcast to `[b, heads, t, s]` of `s` keys, cached ones
    /// first, or the document of each key, I64 `[b, s]`; see [`crate::mask`]. What is later is
    /// hidden in any case.
    pub mask: Option<&'a Tensor>,
}

impl<'a> GptInput<'a> {
    /// Tokens alone: no padding.
    pub fn new(input_ids: &'a Tensor) -> Self {
        Self { input_ids, position_ids: None, mask: None }
    }

    /// Refuses shapes and dtypes that the model can't take. Values are not looked at.
    fn check_shapes(&self, config: &GptConfig, cached: i64) -> Result<()> {
        let (b, t) = input::batch_and_time("input_ids", self.input_ids)?;
        if self.position_ids.is_none() && config.overrides.rotary.is_none() {
            let longest = ("n_positions", config.n_positions);
            input::check_length("input_ids", self.input_ids, cached + t, longest)?;
        }
        if let Some(positions) = self.position_ids {
            input::check_ids("position_ids", positions, &[[b, t], [1, t]])?;
        }
        match self.mask {
            Some(mask) => mask::check("mask", mask, [b, config.n_head, t, cached + t]),
            None => Ok(()),
        }
    }

    /// Refuses ids that the model has no entry for. Waits for the device: for the border of a
    /// program, not for each step of training.
    pub fn check_values(&self, config: &GptConfig) -> Result<()> {
        input::check_range("input_ids", self.input_ids, ("vocab_size", config.vocab_size))?;
        match self.position_ids {
            Some(positions) if config.overrides.rotary.is_none() => {
                let entries = ("n_positions", config.n_positions);
                input::check_range("position_ids", positions, entries)
            }
            _ => Ok(()),
        }
    }
}

/// The published choices, or what the overrides put instead.
impl GptConfig {
    fn norm(&self, path: &ParamPath) -> Result<Norm> {
        let kind = self.overrides.norm.unwrap_or(NormKind::Layer);
        Ok(Norm::new(path, kind, self.n_embd, self.layer_norm_epsilon)?)
    }

    fn placement(&self) -> Placement {
        self.overrides.norm_placement.unwrap_or(Placement::Pre)
    }

    fn init(&self) -> Init {
        Init::Normal(self.initializer_range)
    }

    /// Residual layers start smaller, by the root of their number.
    fn init_of_outputs(&self) -> Init {
        if self.overrides.zero_init_outputs {
            return Init::Zeros;
        }
        Init::Normal(self.initializer_range / (2.0 * self.n_layer as f64).sqrt())
    }

    fn attention_window(&self) -> AttentionWindow {
        AttentionWindow { causal: true, window: self.overrides.window }
    }

    fn feed_forward(&self) -> FeedForwardConfig {
        let (activation, gated) = self
            .overrides
            .feed_forward
            .map_or((self.activation_function, Gated::No), FeedForwardKind::parts);
        FeedForwardConfig {
            hidden: self.n_embd,
            inner: self.inner_size(),
            activation,
            gated,
            biased: self.overrides.biased(),
            dropout: Dropout { probability: 0.0 },
            init_up: self.init(),
            init_down: self.init_of_outputs(),
        }
    }

    fn attention(&self, implementation: AttentionImplementation, layer: i64) -> MultiHeadConfig {
        let root = if self.scale_attn_weights { (self.head_size() as f64).sqrt() } else { 1.0 };
        let number = if self.scale_attn_by_inverse_layer_idx { (layer + 1) as f64 } else { 1.0 };
        MultiHeadConfig {
            hidden: self.n_embd,
            heads: self.n_head,
            kv_heads: self.overrides.kv_heads.unwrap_or(self.n_head),
            head_size: self.head_size(),
            biased: self.overrides.biased(),
            scale: Some(1.0 / (root * number)),
            qk_norm: self.overrides.qk_norm.then_some(self.layer_norm_epsilon),
            implementation,
            dropout: self.attn_pdrop,
            init: MultiHeadInit {
                query: self.init(),
                key_value: self.init(),
                output: self.init_of_outputs(),
            },
        }
    }

    /// Floating-point operations of training on one token, forward and backward: those of matrix
    /// products alone, at two a multiply-add.
    ///
    /// `3 · 2 · [layers · (4 d² + 2 d f + 2 k d) + d v]` with features `d`, inner features `f`,
    /// vocabulary `v` and `k` keys that a query sees on average in rows of `pieces`, which don't
    /// see one another. A gate, grouped heads and a window count as what they are.
    pub fn flops_per_token(&self, pieces: &[i64]) -> f64 {
        let window = AttentionWindow { causal: true, window: self.overrides.window };
        let keys = mean_visible_keys(pieces.iter().copied(), window);
        let attention = self.attention(AttentionImplementation::Plain, 0).products(keys);
        let layer = attention + self.feed_forward().products();
        6.0 * (self.n_layer as f64 * layer + self.n_embd as f64 * self.vocab_size as f64)
    }
}

/// As published, `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.
fn block(
    path: &ParamPath,
    config: &GptConfig,
    implementation: AttentionImplementation,
    layer: i64,
) -> Result<Block> {
    let attention = MultiHeadPaths::Joint {
        query_key_value: path / "attn.c_attn",
        output: path / "attn.c_proj",
        norms: path / "attn",
    };
    let feed_forward = FeedForwardPaths {
        gate: Some(path / "mlp.c_gate"),
        up: path / "mlp.c_fc",
        down: path / "mlp.c_proj",
    };
    let residual = |name: &str| -> Result<Residual> {
        let dropout = Dropout { probability: config.resid_pdrop };
        let norm = Some(config.norm(&(path / name))?);
        Ok(Residual { placement: config.placement(), norm, dropout })
    };
    let attention_config = config.attention(implementation, layer);
    Ok(Block {
        around_attention: residual("ln_1")?,
        attention: MultiHeadAttention::new(&attention, &attention_config)?,
        around_feed_forward: residual("ln_2")?,
        feed_forward: FeedForward::new(&feed_forward, &config.feed_forward())?,
    })
}

/// Keys and values of all blocks, for generation token by token.
#[derive(Debug, Default)]
pub struct GptCache {
    blocks: Vec<KeyValueCache>,
}

impl GptCache {
    /// Number of positions held.
    pub fn len(&self) -> i64 {
        self.blocks.first().map_or(0, KeyValueCache::len)
    }

    /// Whether nothing is held yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the rows of the batch that `rows` names, in its order, as beam search does.
    pub fn select_rows(&mut self, rows: &Tensor) {
        self.blocks.iter_mut().for_each(|block| block.select_rows(rows));
    }
}

/// GPT with its language-model head, which is its token table again, as transformers'
/// `GPT2LMHeadModel`.
#[derive(Debug)]
pub struct Gpt {
    config: GptConfig,
    tokens: Embedding,
    /// Absent with rotary positions.
    positions: Option<Embedding>,
    dropout: Dropout,
    blocks: Vec<Block>,
    /// With [`Placement::Pre`], after the last block.
    final_norm: Option<Norm>,
    checkpointing: ActivationCheckpointing,
}

impl Gpt {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &GptConfig,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        let mut gpt = Self::without_output(path, config, implementation)?;
        gpt.tokens.tie();
        Ok(gpt)
    }

    /// The same, but for its token table, which no output layer shares.
    fn without_output(
        path: &ParamPath,
        config: &GptConfig,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        config.validate()?;
        let path = &(path / "transformer");
        let table = |name: &str, entries| {
            Embedding::new(&(path / name), entries, config.n_embd, None, config.init())
        };
        let tokens = table("wte", config.vocab_size)?;
        let positions = match config.overrides.rotary {
            None => Some(table("wpe", config.n_positions)?),
            Some(_) => None,
        };
        let blocks = (0..config.n_layer)
            .map(|layer| block(&(path / "h" / layer), config, implementation, layer))
            .collect::<Result<_>>()?;
        let final_norm = match config.placement() {
            Placement::Pre => Some(config.norm(&(path / "ln_f"))?),
            Placement::Post => None,
        };
        let dropout = Dropout { probability: config.embd_pdrop };
        let (config, checkpointing) = (config.clone(), ActivationCheckpointing::None);
        Ok(Self { config, tokens, positions, dropout, blocks, final_norm, checkpointing })
    }

    /// Chooses what activation checkpointing drops and recomputes; nothing at first.
    pub fn set_activation_checkpointing(&mut self, checkpointing: ActivationCheckpointing) {
        self.checkpointing = checkpointing;
    }

    /// Its blocks' maps, to be changed.
    pub fn maps_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(Block::maps_mut)
    }

    /// The device that it computes on.
    pub fn device(&self) -> Device {
        self.tokens.weight.device()
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &GptConfig {
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
    pub fn forward(&self, input: &GptInput, train: bool) -> Result<Tensor> {
        self.run(input, None, train)
    }

    /// [`forward`](Self::forward) of tokens that follow those of earlier calls with `cache`.
    pub fn forward_cached(&self, input: &GptInput, cache: &mut GptCache) -> Result<Tensor> {
        self.run(input, Some(cache), false)
    }

    fn run(&self, input: &GptInput, cache: Option<&mut GptCache>, train: bool) -> Result<Tensor> {
        let cached = cache.as_ref().map_or(0, |cache| cache.len());
        input.check_shapes(&self.config, cached)?;
        let t = input.input_ids.size()[1];
        let x_btd = self.embed(input, cached, train)?;
        let device = x_btd.device();
        let window = self.config.attention_window();
        let mask = AttentionMask::new(window, [t, cached + t], input.mask, device);
        let rotation = self.config.overrides.rotary.map(|rotary| {
            let (head_size, kind) = (self.config.head_size(), x_btd.kind());
            match input.position_ids {
                Some(ids) => rotary.rotation(ids, head_size, kind),
                None => rotary.rotation_of_range(cached, t, head_size, kind, device),
            }
        });
        let mut caches = cache.map(|cache| {
            cache.blocks.resize_with(self.blocks.len(), KeyValueCache::default);
            cache.blocks.iter_mut()
        });
        let mut x_btd = ResidualStream::from(x_btd);
        for block in &self.blocks {
            let cache = caches.as_mut().and_then(Iterator::next);
            x_btd = match self.checkpointing {
                ActivationCheckpointing::Blocks if train => {
                    block.forward_checkpointed(&x_btd.whole(), &mask, rotation.as_ref())?.into()
                }
                _ => block.forward(x_btd, &mask, rotation.as_ref(), cache, train)?,
            };
        }
        Ok(match &self.final_norm {
            Some(norm) => norm.last(x_btd)?,
            None => x_btd.whole(),
        })
    }

    /// `[b, t]` ids to `[b, t, d]`.
    fn embed(&self, input: &GptInput, cached: i64, train: bool) -> Result<Tensor> {
        let mut x_btd = self.tokens.forward(input.input_ids)?;
        if let Some(positions) = &self.positions {
            x_btd += match input.position_ids {
                Some(ids) => positions.forward(ids)?,
                None => positions.weight.narrow(0, cached, input.input_ids.size()[1]),
            };
        }
        Ok(self.dropout.forward(x_btd, train))
    }

    /// Logits over the vocabulary: `[.., d]` to `[.., v]`, in the weights' dtype.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        self.output().logits(hidden)
    }

    fn output(&self) -> OutputLayer<'_> {
        let soft_cap = self.config.overrides.logit_soft_cap;
        let policy = self.tokens.policy();
        OutputLayer { weight: &self.tokens.weight, bias: None, soft_cap, policy }
    }

    /// The sum of the cross-entropies of `labels_m`, I64, each the token after a hidden state
    /// `[m, d]`; a scalar in FP32.
    ///
    /// # Errors
    /// What libtorch and the kernels throw.
    pub fn loss_after(
        &self,
        hidden_md: &Tensor,
        labels_m: &Tensor,
        options: &LossOptions,
    ) -> Result<Tensor> {
        let one = Tensor::ones([], (Kind::Int64, labels_m.device()));
        self.output().cross_entropy(hidden_md, labels_m, Some(&one), options)
    }

    /// Mean cross-entropy of each next token, a scalar in FP32.
    ///
    /// `labels_bt` is I64 and shaped as the input, of which it usually is a copy with
    /// [`IGNORED`](crate::loss::IGNORED) at some positions: the hidden state before a label
    /// predicts it, so that the first label of a row is not used.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); labels of another shape, or fewer than two tokens.
    pub fn lm_loss(
        &self,
        input: &GptInput,
        labels_bt: &Tensor,
        options: &LossOptions,
        train: bool,
    ) -> Result<Tensor> {
        let (b, t) = input::batch_and_time("input_ids", input.input_ids)?;
        input::check_ids("labels", labels_bt, &[[b, t]])?;
        if t < 2 {
            return Err(input::refuse("labels", labels_bt, "at least two tokens a row"));
        }
        let hidden_btd = self.forward(input, train)?;
        let hidden_nd = hidden_btd.narrow(1, 0, t - 1).flatten(0, 1);
        let next_n = labels_bt.narrow(1, 1, t - 1).flatten(0, 1);
        self.output().cross_entropy(&hidden_nd, &next_n, None, options)
    }

    /// How well the next tokens are predicted, as [`next_token_loss`](Self::next_token_loss) reads
    /// them. Without dropout and gradients.
    ///
    /// # Errors
    /// As [`next_token_loss`](Self::next_token_loss).
    pub fn next_token_score<'a>(
        &self,
        input: &GptInput,
        next: impl Into<Labels<'a>>,
    ) -> Result<PredictionScore> {
        let _guard = no_grad_guard();
        let next = next.into();
        let (b, t) = input::batch_and_time("input_ids", input.input_ids)?;
        input::check_ids("next tokens", next.ids_bt, &[[b, t]])?;
        let (hidden_nd, next_n) = next.select(self.forward(input, false)?.flatten(0, 1));
        self.output().score(&hidden_nd, &next_n)
    }

    /// Cross-entropy of the token that is to follow each position, a scalar in FP32: the mean,
    /// unless `next` has another divisor. `next.ids_bt` is shaped as the input.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); labels of another shape.
    pub fn next_token_loss<'a>(
        &self,
        input: &GptInput,
        next: impl Into<Labels<'a>>,
        options: &LossOptions,
        train: bool,
    ) -> Result<Tensor> {
        let next = next.into();
        let (b, t) = input::batch_and_time("input_ids", input.input_ids)?;
        input::check_ids("next tokens", next.ids_bt, &[[b, t]])?;
        let (hidden_nd, next_n) = next.select(self.forward(input, train)?.flatten(0, 1));
        self.output().cross_entropy(&hidden_nd, &next_n, next.divisor, options)
    }
}
