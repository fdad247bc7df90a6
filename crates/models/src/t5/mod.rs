//! T5 (Raffel et al., arXiv 1910.10683), v1.0 and v1.1: an encoder and a decoder with relative
//! positions, RMS norms and no biases.
//!
//! Axes: `b` batch, `s` time of the encoder, `t` time of the decoder, `d` features, `v`
//! vocabulary.

mod classification;
mod config;
mod encoder;
mod relative;
mod stack;

use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::{Init, ParamPath};
use bert4rs_tensor_core::varlen::AttentionWindow;
use bert4rs_tensor_core::{Device, Tensor, no_grad_guard};

pub use classification::T5EncoderForSequenceClassification;
pub use config::{T5Config, T5Size, T5Version};
pub use encoder::T5Encoder;

use crate::checkpointing::ActivationCheckpointing;
use crate::error::Result;
use crate::input;
use crate::layers::attention::MultiHeadInit;
use crate::layers::{
    AttentionBackend, Biased, Dropout, FeedForwardConfig, KeyValueCache, Linear, MultiHeadConfig,
    Norm, NormKind, Placement,
};
use crate::loss::{self, Labels, LossOptions, OutputLayer, PredictionScore};
use crate::mask::{self, AttentionMask};
use crate::visible_pairs::mean_visible_keys;
use stack::{Memory, Stack};

/// What T5 reads. Masks are true where a query may see a key, or are the documents of tokens;
/// see [`crate::mask`].
#[derive(Debug, Clone, Copy)]
pub struct T5Input<'a> {
    /// The encoder's tokens `[b, s]`, I64.
    pub input_ids: &'a Tensor,
    /// Of the encoder, broadcast to `[b, heads, s, s]`.
    pub mask: Option<&'a Tensor>,
    /// The decoder's tokens `[b, t]`, I64; see [`T5::shift_right`].
    pub decoder_input_ids: &'a Tensor,
    /// Of the decoder, broadcast to `[b, heads, t, t]`. What is later is hidden in any case.
    pub decoder_mask: Option<&'a Tensor>,
    /// From decoder to encoder, broadcast to `[b, heads, t, s]`. The documents of the encoder's
    /// tokens, I64 `[b, s]`, go with those of the decoder's in `decoder_mask`.
    pub cross_mask: Option<&'a Tensor>,
}

impl<'a> T5Input<'a> {
    /// Tokens alone: no padding.
    pub fn new(input_ids: &'a Tensor, decoder_input_ids: &'a Tensor) -> Self {
        Self { input_ids, mask: None, decoder_input_ids, decoder_mask: None, cross_mask: None }
    }

    /// Refuses ids that the model has no entry for. Waits for the device: for the border of a
    /// program, not for each step of training.
    pub fn check_values(&self, config: &T5Config) -> Result<()> {
        let entries = ("vocab_size", config.vocab_size);
        input::check_range("input_ids", self.input_ids, entries)?;
        input::check_range("decoder_input_ids", self.decoder_input_ids, entries)
    }
}

/// The published choices, or what the overrides put instead.
impl T5Config {
    fn norm(&self, path: &ParamPath) -> Result<Norm> {
        let kind = self.overrides.norm.unwrap_or(NormKind::Rms);
        Ok(Norm::new(path, kind, self.d_model, self.layer_norm_epsilon)?)
    }

    fn placement(&self) -> Placement {
        self.overrides.norm_placement.unwrap_or(Placement::Pre)
    }

    fn dropout(&self) -> Dropout {
        Dropout { probability: self.dropout_rate }
    }

    /// Normal with `features` to the power -1/2, times the factor.
    fn init(&self, features: i64) -> Init {
        Init::Normal(self.initializer_factor * (features as f64).powf(-0.5))
    }

    fn init_of_outputs(&self, features: i64) -> Init {
        if self.overrides.zero_init_outputs { Init::Zeros } else { self.init(features) }
    }

    fn feed_forward(&self) -> Result<FeedForwardConfig> {
        let (activation, gated) = self.feed_forward_parts()?;
        Ok(FeedForwardConfig {
            hidden: self.d_model,
            inner: self.d_ff,
            activation,
            gated,
            biased: Biased::No,
            dropout: self.dropout(),
            init_up: self.init(self.d_model),
            init_down: self.init_of_outputs(self.d_ff),
        })
    }

    /// T5 starts queries smaller by the root of the head's size instead of dividing scores by it.
    fn attention(&self, implementation: AttentionImplementation) -> MultiHeadConfig {
        MultiHeadConfig {
            hidden: self.d_model,
            heads: self.num_heads,
            kv_heads: self.overrides.kv_heads.unwrap_or(self.num_heads),
            head_size: self.d_kv,
            biased: Biased::No,
            scale: Some(1.0),
            qk_norm: self.overrides.qk_norm.then_some(self.layer_norm_epsilon),
            implementation,
            dropout: self.attention_dropout(),
            init: MultiHeadInit {
                query: self.init(self.d_model * self.d_kv),
                key_value: self.init(self.d_model),
                output: self.init_of_outputs(self.num_heads * self.d_kv),
            },
        }
    }

    /// Floating-point operations of training on rows of `pieces`, forward and backward: those of
    /// matrix products alone, at two a multiply-add. A piece is the numbers of its tokens in
    /// encoder and decoder; pieces don't see one another.
    ///
    /// `3 · 2 · ` the encoder's products for its tokens and the decoder's, with cross-attention
    /// and logits, for the others.
    ///
    /// # Errors
    /// A configuration that [`validate`](Self::validate) refuses.
    pub fn flops_of(&self, pieces: &[(i64, i64)]) -> Result<f64> {
        self.validate()?;
        let sum = |of: fn(&(i64, i64)) -> i64| pieces.iter().map(of).sum::<i64>() as f64;
        let (s, t) = (sum(|piece| piece.0), sum(|piece| piece.1));
        let attention = self.attention(AttentionImplementation::Plain);
        let feed_forward = self.feed_forward()?.products();
        let window = |causal| AttentionWindow { causal, window: self.overrides.window };
        let of_encoder = mean_visible_keys(pieces.iter().map(|piece| piece.0), window(false));
        let of_decoder = mean_visible_keys(pieces.iter().map(|piece| piece.1), window(true));
        let seen: f64 = pieces.iter().map(|&(source, target)| (source * target) as f64).sum();
        let encoder = s * (attention.products(of_encoder) + feed_forward);
        // Keys and values of cross-attention are mapped once for each token of the encoder.
        let key_value = 2.0 * (attention.hidden * attention.kv_heads * attention.head_size) as f64;
        let cross = t * (attention.products(seen / t.max(1.0)) - key_value) + s * key_value;
        let own = t * (attention.products(of_decoder) + feed_forward);
        let head = t * self.d_model as f64 * self.vocab_size as f64;
        let layers = self.num_layers as f64 * encoder;
        Ok(6.0 * (layers + self.decoder_layers() as f64 * (own + cross) + head))
    }
}

/// Keys and values of all of the decoder's blocks, for generation token by token.
#[derive(Debug, Default)]
pub struct T5Cache {
    /// Of the decoder's own tokens.
    own: Vec<KeyValueCache>,
    /// Of the encoder's result.
    cross: Vec<KeyValueCache>,
}

impl T5Cache {
    /// Number of the decoder's positions held.
    pub fn len(&self) -> i64 {
        self.own.first().map_or(0, KeyValueCache::len)
    }

    /// Whether nothing is held yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the rows of the batch that `rows` names, in its order, as beam search does.
    pub fn select_rows(&mut self, rows: &Tensor) {
        self.own.iter_mut().chain(&mut self.cross).for_each(|block| block.select_rows(rows));
    }
}

/// T5 with its language-model head, as transformers' `T5ForConditionalGeneration`.
#[derive(Debug)]
pub struct T5 {
    encoder: T5Encoder,
    decoder: Stack,
    /// Absent where the output matrix is the token table.
    head: Option<Linear>,
}

impl T5 {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &T5Config,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        let (v, d) = (config.vocab_size, config.d_model);
        let mut encoder = T5Encoder::new(path, config, implementation)?;
        let decoder = Stack::decoder(&(path / "decoder"), config, implementation)?;
        let head = if config.tie_word_embeddings {
            encoder.tokens.tie();
            None
        } else {
            // As the authors': with transformers' deviation of 1, logits begin at tens, and losses
            // too. A tied head's are scaled instead.
            Some(Linear::head(&(path / "lm_head"), d, v, Biased::No, config.init(d))?)
        };
        Ok(Self { encoder, decoder, head })
    }

    /// Its encoder.
    pub fn encoder(&self) -> &T5Encoder {
        &self.encoder
    }

    /// The device that it computes on.
    pub fn device(&self) -> Device {
        self.encoder.tokens.weight.device()
    }

    /// Its blocks' maps, to be changed.
    pub fn maps_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.encoder.maps_mut().chain(self.decoder.maps_mut())
    }

    /// Chooses what activation checkpointing drops and recomputes; nothing at first.
    pub fn set_activation_checkpointing(&mut self, checkpointing: ActivationCheckpointing) {
        self.encoder.set_activation_checkpointing(checkpointing);
        self.decoder.set_activation_checkpointing(checkpointing);
    }

    /// The code that computed the encoder's attention when the model was first used; absent
    /// before.
    pub fn attention_backend(&self) -> Option<AttentionBackend> {
        self.encoder.attention_backend()
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &T5Config {
        self.encoder.config()
    }

    /// The encoder's result `[b, s, d]`. Dropout acts if `train`.
    ///
    /// # Errors
    /// Shapes and dtypes that don't fit; attention dropout that the implementation can't do.
    pub fn encode(&self, ids_bs: &Tensor, mask: Option<&Tensor>, train: bool) -> Result<Tensor> {
        self.encoder.forward(ids_bs, mask, train)
    }

    /// The decoder's result `[b, t, d]` for tokens `[b, t]` that follow those of earlier calls
    /// with `cache`. `memory_bsd` is the encoder's result.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn decode(
        &self,
        ids_bt: &Tensor,
        mask: Option<&Tensor>,
        memory_bsd: &Tensor,
        cross_mask: Option<&Tensor>,
        cache: Option<&mut T5Cache>,
        train: bool,
    ) -> Result<Tensor> {
        let (b, t) = input::batch_and_time("decoder_input_ids", ids_bt)?;
        let (heads, size) = (self.config().num_heads, memory_bsd.size());
        let cached = cache.as_ref().map_or(0, |cache| cache.len());
        if size.len() != 3 || size[0] != b || size[2] != self.config().d_model {
            let expected = format!("[{b}, time, {}]", self.config().d_model);
            return Err(input::refuse("encoder result", memory_bsd, expected));
        }
        if let Some(mask) = mask {
            mask::check("decoder_mask", mask, [b, heads, t, cached + t])?;
        }
        if let Some(mask) = cross_mask {
            mask::check("cross_mask", mask, [b, heads, t, size[1]])?;
        }
        let across = AttentionMask::across([t, size[1]], cross_mask, mask, memory_bsd.device())?;
        let memory = Memory { states_bsd: memory_bsd, mask: &across };
        self.decoder.forward(
            &self.encoder.tokens.forward(ids_bt)?,
            mask,
            Some(memory),
            cache,
            train,
        )
    }

    /// The decoder's result `[b, t, d]` in the weights' dtype.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn forward(&self, input: &T5Input, train: bool) -> Result<Tensor> {
        let memory_bsd = self.encode(input.input_ids, input.mask, train)?;
        let (ids, mask) = (input.decoder_input_ids, input.decoder_mask);
        self.decode(ids, mask, &memory_bsd, input.cross_mask, None, train)
    }

    /// Logits over the vocabulary: `[.., d]` to `[.., v]`, in the weights' dtype.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        self.output().logits(&self.features(hidden))
    }

    /// What the output layer reads: `[.., d]` to `[.., d]`.
    fn features(&self, hidden: &Tensor) -> Tensor {
        if self.config().scales_decoder_outputs() {
            hidden * (self.config().d_model as f64).powf(-0.5)
        } else {
            hidden.shallow_clone()
        }
    }

    fn output(&self) -> OutputLayer<'_> {
        let weight = self.head.as_ref().map_or(&self.encoder.tokens.weight, |head| &head.weight);
        let soft_cap = self.config().overrides.logit_soft_cap;
        OutputLayer { weight, bias: None, soft_cap, policy: self.encoder.tokens.policy() }
    }

    /// Cross-entropy of the labels, a scalar in FP32: the mean, unless they have another divisor.
    /// They are shaped as the decoder's tokens, each the token that is to follow.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); labels of another shape.
    pub fn lm_loss<'a>(
        &self,
        input: &T5Input,
        labels: impl Into<Labels<'a>>,
        options: &LossOptions,
        train: bool,
    ) -> Result<Tensor> {
        let labels = labels.into();
        let (b, t) = input::batch_and_time("decoder_input_ids", input.decoder_input_ids)?;
        input::check_ids("labels", labels.ids_bt, &[[b, t]])?;
        let features_nd = self.features(&self.forward(input, train)?.flatten(0, 1));
        let (features_nd, labels_n) = labels.select(features_nd);
        self.output().cross_entropy(&features_nd, &labels_n, labels.divisor, options)
    }

    /// How well the labels are predicted, as [`lm_loss`](Self::lm_loss) reads them. Without dropout
    /// and gradients.
    ///
    /// # Errors
    /// As [`lm_loss`](Self::lm_loss).
    pub fn lm_score<'a>(
        &self,
        input: &T5Input,
        labels: impl Into<Labels<'a>>,
    ) -> Result<PredictionScore> {
        let _guard = no_grad_guard();
        let labels = labels.into();
        let (b, t) = input::batch_and_time("decoder_input_ids", input.decoder_input_ids)?;
        input::check_ids("labels", labels.ids_bt, &[[b, t]])?;
        let features_nd = self.features(&self.forward(input, false)?.flatten(0, 1));
        let (features_nd, labels_n) = labels.select(features_nd);
        self.output().score(&features_nd, &labels_n)
    }

    /// The decoder's tokens for `labels_bt`: each label one position later, after the padding token
    /// that starts every text; ignored labels become padding.
    ///
    /// # Errors
    /// Labels that are not I64 of shape `[b, t]`.
    pub fn shift_right(&self, labels_bt: &Tensor) -> Result<Tensor> {
        let (b, t) = input::batch_and_time("labels", labels_bt)?;
        let pad = self.config().pad_token_id;
        let start_b1 = labels_bt.narrow(1, 0, 1).full_like(pad);
        let rest = labels_bt.narrow(1, 0, t - 1);
        debug_assert_eq!(start_b1.size(), [b, 1]);
        Ok(Tensor::cat(&[start_b1, rest.masked_fill(&rest.eq(loss::IGNORED), pad)], 1))
    }
}
