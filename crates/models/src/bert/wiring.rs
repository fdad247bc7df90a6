//! How BERT and its relatives are put together from the shared parts: what was published, or what
//! the overrides put instead.

use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::{Init, ParamPath};
use bert4rs_tensor_core::varlen::AttentionWindow;

use super::BertConfig;
use super::relatives::BertVariant;
use super::relatives::names::ProjectionNames;
use crate::error::Result;
use crate::layers::attention::{MultiHeadInit, MultiHeadPaths};
use crate::layers::feed_forward::{FeedForwardPaths, Gated};
use crate::layers::{
    Biased, Block, Dropout, FeedForward, FeedForwardConfig, FeedForwardKind, MultiHeadAttention,
    MultiHeadConfig, Norm, NormKind, Placement, Residual,
};
use crate::visible_pairs::mean_visible_keys;

impl BertConfig {
    fn is_modern(&self) -> bool {
        self.variant.modern().is_some()
    }

    pub(super) fn norm(&self, path: &ParamPath, features: i64) -> Result<Norm> {
        let eps = self.layer_norm_eps;
        Ok(match self.overrides.norm {
            Some(kind) => Norm::new(path, kind, features, eps)?,
            None if self.is_modern() => Norm::without_bias(path, features, eps)?,
            None => Norm::new(path, NormKind::Layer, features, eps)?,
        })
    }

    pub(super) fn placement(&self) -> Placement {
        let published = if self.is_modern() { Placement::Pre } else { Placement::Post };
        self.overrides.norm_placement.unwrap_or(published)
    }

    pub(super) fn dropout(&self) -> Dropout {
        Dropout { probability: self.hidden_dropout_prob }
    }

    /// DistilBERT drops no feature of attention's result.
    fn dropout_of_attention(&self) -> Dropout {
        match self.variant {
            BertVariant::DistilBert { .. } => Dropout { probability: 0.0 },
            _ => self.dropout(),
        }
    }

    pub(super) fn init(&self) -> Init {
        Init::Normal(self.initializer_range)
    }

    /// ModernBERT's residual maps start smaller, by the root of their number.
    fn init_of_outputs(&self) -> Init {
        match (self.overrides.zero_init_outputs, self.is_modern()) {
            (true, _) => Init::Zeros,
            (false, false) => self.init(),
            (false, true) => {
                let maps = 2.0 * self.num_hidden_layers as f64;
                Init::Normal(self.initializer_range / maps.sqrt())
            }
        }
    }

    fn biased(&self) -> Biased {
        if self.is_modern() { Biased::No } else { self.overrides.biased() }
    }

    /// Whether maps of heads, but the last, have biases.
    pub(super) fn heads_biased(&self) -> Biased {
        if self.is_modern() { Biased::No } else { Biased::Yes }
    }

    /// Of blocks whose tokens attend to all.
    pub(super) fn attention_window(&self) -> AttentionWindow {
        AttentionWindow { causal: false, window: self.overrides.window }
    }

    /// Of ModernBERT's other blocks, unless the overrides have one for all.
    pub(super) fn local_window(&self) -> Option<AttentionWindow> {
        let own = self.variant.modern().map(|modern| modern.local_attention / 2 + 1);
        let window = Some(self.overrides.window.unwrap_or(own?));
        Some(AttentionWindow { causal: false, window })
    }

    fn feed_forward(&self) -> FeedForwardConfig {
        let published = (self.hidden_act, if self.is_modern() { Gated::Yes } else { Gated::No });
        let (activation, gated) =
            self.overrides.feed_forward.map_or(published, FeedForwardKind::parts);
        FeedForwardConfig {
            hidden: self.hidden_size,
            inner: self.intermediate_size,
            activation,
            gated,
            biased: self.biased(),
            dropout: Dropout { probability: 0.0 },
            init_up: self.init(),
            init_down: self.init_of_outputs(),
        }
    }

    fn attention(&self, implementation: AttentionImplementation) -> MultiHeadConfig {
        MultiHeadConfig {
            hidden: self.hidden_size,
            heads: self.num_attention_heads,
            kv_heads: self.overrides.kv_heads.unwrap_or(self.num_attention_heads),
            head_size: self.head_size(),
            biased: self.biased(),
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
    /// `3 · 2 · [layers · (4 d² + 2 d f + 2 t d) + masked · (d e + e v)]` with features `d`, inner
    /// features `f`, features of the tables `e`, keys `t` that a query sees on average in rows of
    /// `pieces`, which don't see one another, vocabulary `v`: the backward pass does each product
    /// twice, once for each operand; `2 t d` is `q kᵀ` and its product with the values. A gate,
    /// grouped heads and windows count as what they are.
    pub fn flops_per_token(&self, pieces: &[i64], masked_fraction: f64) -> f64 {
        let (d, v) = (self.hidden_size as f64, self.vocab_size as f64);
        let e = self.embedding_size() as f64;
        let keys = |window| {
            mean_visible_keys(pieces.iter().copied(), AttentionWindow { causal: false, window })
        };
        let attention = self.attention(AttentionImplementation::Plain);
        let layer = |window| attention.products(keys(window)) + self.feed_forward().products();
        let local_window = self.local_window().and_then(|window| window.window);
        let local = self
            .variant
            .modern()
            .map_or(0, |modern| modern.is_local.iter().filter(|&&local| local).count())
            as f64;
        let layers = (self.num_hidden_layers as f64 - local) * layer(self.overrides.window)
            + local * layer(local_window);
        let projection = if self.embedding_size() == self.hidden_size { 0.0 } else { d * e };
        6.0 * (layers + projection + masked_fraction * (d * e + e * v))
    }
}

/// Attention, then feed-forward, each with its residual connection: as published, `norm(x +
/// attention(x))`, then `norm(x + feed_forward(x))`.
pub(super) fn block(
    path: &ParamPath,
    config: &BertConfig,
    implementation: AttentionImplementation,
    is_first: bool,
) -> Result<Block> {
    let names = &config.variant.names().block;
    let (output, norms) = (path / names.attention_output, path / names.attention);
    let attention = match names.projections {
        ProjectionNames::Separate { query, key, value } => MultiHeadPaths::Separate {
            query: path / query,
            key: path / key,
            value: path / value,
            output,
            norms,
        },
        ProjectionNames::Joint(joint) => {
            MultiHeadPaths::Joint { query_key_value: path / joint, output, norms }
        }
    };
    let feed_forward = FeedForwardPaths {
        gate: names.gate.map(|gate| path / gate),
        up: path / names.up,
        down: path / names.down,
    };
    let residual = |norm: Option<&str>, dropout| -> Result<Residual> {
        let norm = match norm {
            Some(name) => Some(config.norm(&(path / name), config.hidden_size)?),
            None => None,
        };
        Ok(Residual { placement: config.placement(), norm, dropout })
    };
    // ModernBERT's embeddings are normed just before.
    let is_normed = is_first && config.is_modern() && config.placement() == Placement::Pre;
    let attention_norm = (!is_normed).then_some(names.attention_norm);
    Ok(Block {
        attention: MultiHeadAttention::new(&attention, &config.attention(implementation))?,
        around_attention: residual(attention_norm, config.dropout_of_attention())?,
        feed_forward: FeedForward::new(&feed_forward, &config.feed_forward())?,
        around_feed_forward: residual(Some(names.feed_forward_norm), config.dropout())?,
    })
}
