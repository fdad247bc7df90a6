//! A stack of T5's blocks: the encoder, or the decoder with its cross-attention.
//!
//! Axes: `b` batch, `t` queries, `s` positions of the encoder, `d` features.

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamPath;
use bert4rs_tensor_core::varlen::AttentionWindow;

use super::relative::RelativeBias;
use super::{T5Cache, T5Config};
use crate::checkpointing::{ActivationCheckpointing, checkpoint};
use crate::error::Result;
use crate::layers::attention::MultiHeadPaths;
use crate::layers::feed_forward::{FeedForwardPaths, Gated};
use crate::layers::{
    AttentionBackend, AttentionInput, Dropout, FeedForward, KeyValueCache, Linear,
    MultiHeadAttention, Norm, Placement, Residual, ResidualStream, Rotation,
};
use crate::mask::AttentionMask;

/// The encoder's result, and which of its positions each query may attend to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory<'a> {
    pub(super) states_bsd: &'a Tensor,
    pub(super) mask: &'a AttentionMask,
}

/// As published, `x + f(norm(x))` for attention, cross-attention in the decoder, and
/// feed-forward.
#[derive(Debug, Clone)]
struct Block {
    attention: MultiHeadAttention,
    around_attention: Residual,
    cross: Option<(MultiHeadAttention, Residual)>,
    feed_forward: FeedForward,
    around_feed_forward: Residual,
}

/// What a block's attentions read beside their queries.
struct BlockInput<'a> {
    own: AttentionInput<'a>,
    memory: Option<Memory<'a>>,
    cross_cache: Option<&'a mut KeyValueCache>,
}

impl Block {
    fn new(
        path: &ParamPath,
        config: &T5Config,
        implementation: AttentionImplementation,
        is_decoder: bool,
    ) -> Result<Self> {
        let attention_config = config.attention(implementation);
        let attention = |path: ParamPath| {
            let paths = MultiHeadPaths::Separate {
                query: &path / "q",
                key: &path / "k",
                value: &path / "v",
                output: &path / "o",
                norms: path,
            };
            MultiHeadAttention::new(&paths, &attention_config)
        };
        let residual = |path: &ParamPath| -> Result<Residual> {
            let norm = Some(config.norm(&(path / "layer_norm"))?);
            Ok(Residual { placement: config.placement(), norm, dropout: config.dropout() })
        };
        let layer = |index: i64| path / "layer" / index;
        let cross = if is_decoder {
            Some((attention(layer(1) / "EncDecAttention")?, residual(&layer(1))?))
        } else {
            None
        };
        let last = layer(if is_decoder { 2 } else { 1 });
        let feed_forward = config.feed_forward()?;
        let maps = &last / "DenseReluDense";
        let up = if feed_forward.gated == Gated::Yes { "wi_1" } else { "wi" };
        let paths =
            FeedForwardPaths { gate: Some(&maps / "wi_0"), up: &maps / up, down: &maps / "wo" };
        Ok(Self {
            attention: attention(layer(0) / "SelfAttention")?,
            around_attention: residual(&layer(0))?,
            cross,
            feed_forward: FeedForward::new(&paths, &feed_forward)?,
            around_feed_forward: residual(&last)?,
        })
    }

    /// Its maps, to be changed.
    fn maps_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let cross = self.cross.iter_mut().flat_map(|(attention, _)| attention.maps_mut());
        let own = self.attention.maps_mut().into_iter();
        own.chain(cross).chain(self.feed_forward.maps_mut())
    }

    /// `[b, t, d]` to `[b, t, d]`.
    fn forward(&self, x_btd: ResidualStream, input: BlockInput) -> Result<ResidualStream> {
        let train = input.own.train;
        let mut x_btd = self
            .around_attention
            .forward(x_btd, train, |x_btd| self.attention.forward(x_btd, input.own))?;
        if let (Some((cross, around)), Some(memory)) = (&self.cross, input.memory) {
            x_btd = around.forward(x_btd, train, |x_btd| {
                let (mask, cache) = (memory.mask, input.cross_cache);
                let keys = AttentionInput { mask, rotation: None, cache, train };
                cross.cross(x_btd, memory.states_bsd, keys)
            })?;
        }
        self.around_feed_forward
            .forward(x_btd, train, |x_btd| Ok(self.feed_forward.forward(x_btd, train)?))
    }

    /// Whether it draws random numbers in training.
    fn drops(&self) -> bool {
        let cross = self.cross.iter().any(|(a, around)| a.drops() || around.dropout.acts());
        let around = [&self.around_attention, &self.around_feed_forward];
        cross
            || self.attention.drops()
            || self.feed_forward.drops()
            || around.into_iter().any(|residual| residual.dropout.acts())
    }

    fn weights(&self) -> impl Iterator<Item = &Tensor> {
        let attentions = [&self.attention].into_iter().chain(self.cross.iter().map(|(a, _)| a));
        let residuals = [&self.around_attention, &self.around_feed_forward];
        let residuals = residuals.into_iter().chain(self.cross.iter().map(|(_, around)| around));
        let norms = residuals.flat_map(Residual::weights);
        attentions
            .flat_map(MultiHeadAttention::weights)
            .chain(self.feed_forward.weights())
            .chain(norms)
    }

    /// [`forward`](Self::forward) in training, with activation checkpointing: the backward pass
    /// runs it a second time.
    fn forward_checkpointed(
        &self,
        x_btd: &Tensor,
        mask: &AttentionMask,
        rotation: Option<&Rotation>,
        memory: Option<Memory>,
    ) -> Result<Tensor> {
        let weights: Vec<&Tensor> = self.weights().collect();
        // The bias and the encoder's result need gradients too.
        let mut inputs = vec![x_btd];
        inputs.extend(mask.bias());
        inputs.extend(memory.map(|memory| memory.states_bsd));
        let (has_bias, cross_mask) = (mask.bias().is_some(), memory.map(|m| m.mask.clone()));
        let (block, mask, rotation) = (self.clone(), mask.clone(), rotation.cloned());
        checkpoint(&inputs, &weights, self.drops(), move |inputs| {
            let mask = match has_bias {
                true => mask.clone().with_bias(inputs[1].shallow_clone()),
                false => mask.clone(),
            };
            let memory = cross_mask
                .as_ref()
                .map(|mask| Memory { states_bsd: &inputs[1 + usize::from(has_bias)], mask });
            let rotation = rotation.as_ref();
            let own = AttentionInput { mask: &mask, rotation, cache: None, train: true };
            let x_btd = inputs[0].shallow_clone().into();
            Ok(block.forward(x_btd, BlockInput { own, memory, cross_cache: None })?.whole())
        })
    }
}

/// Blocks between embeddings and the final norm.
#[derive(Debug)]
pub(super) struct Stack {
    config: T5Config,
    is_decoder: bool,
    /// Absent with rotary positions.
    bias: Option<RelativeBias>,
    blocks: Vec<Block>,
    /// With [`Placement::Pre`], after the last block.
    final_norm: Option<Norm>,
    dropout: Dropout,
    checkpointing: ActivationCheckpointing,
}

impl Stack {
    /// Its blocks' maps, to be changed.
    pub(super) fn maps_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(Block::maps_mut)
    }

    /// Sees all of its tokens.
    pub(super) fn encoder(
        path: &ParamPath,
        config: &T5Config,
        with: AttentionImplementation,
    ) -> Result<Self> {
        Self::new(path, config, with, false)
    }

    /// Sees earlier tokens, and the encoder's result.
    pub(super) fn decoder(
        path: &ParamPath,
        config: &T5Config,
        with: AttentionImplementation,
    ) -> Result<Self> {
        Self::new(path, config, with, true)
    }

    fn new(
        path: &ParamPath,
        config: &T5Config,
        implementation: AttentionImplementation,
        is_decoder: bool,
    ) -> Result<Self> {
        let count = if is_decoder { config.decoder_layers() } else { config.num_layers };
        let blocks = (0..count)
            .map(|index| Block::new(&(path / "block" / index), config, implementation, is_decoder))
            .collect::<Result<_>>()?;
        let first = path / "block.0.layer.0.SelfAttention.relative_attention_bias";
        let bias = match config.overrides.rotary {
            None => Some(RelativeBias::new(&first, config, !is_decoder)?),
            Some(_) => None,
        };
        let final_norm = match config.placement() {
            Placement::Pre => Some(config.norm(&(path / "final_layer_norm"))?),
            Placement::Post => None,
        };
        let (config, dropout, checkpointing) =
            (config.clone(), config.dropout(), ActivationCheckpointing::None);
        Ok(Self { config, is_decoder, bias, blocks, final_norm, dropout, checkpointing })
    }

    pub(super) fn set_activation_checkpointing(&mut self, checkpointing: ActivationCheckpointing) {
        self.checkpointing = checkpointing;
    }

    /// The code that computed its own attention when it was first used; absent before.
    pub(super) fn attention_backend(&self) -> Option<AttentionBackend> {
        self.blocks.first().and_then(|block| block.attention.backend())
    }

    /// Embeddings `[b, t, d]` to hidden states `[b, t, d]`.
    pub(super) fn forward(
        &self,
        x_btd: &Tensor,
        mask: Option<&Tensor>,
        memory: Option<Memory>,
        cache: Option<&mut T5Cache>,
        train: bool,
    ) -> Result<Tensor> {
        let cached = cache.as_ref().map_or(0, |cache| cache.len());
        let (t, device) = (x_btd.size()[1], x_btd.device());
        let window =
            AttentionWindow { causal: self.is_decoder, window: self.config.overrides.window };
        let mut mask = AttentionMask::new(window, [t, cached + t], mask, device);
        if let Some(bias) = &self.bias {
            mask = mask.with_bias(bias.forward(t, cached + t));
        }
        let rotation: Option<Rotation> = self.config.overrides.rotary.map(|rotary| {
            rotary.rotation_of_range(cached, t, self.config.d_kv, x_btd.kind(), device)
        });
        let mut caches = cache.map(|cache| {
            cache.own.resize_with(self.blocks.len(), KeyValueCache::default);
            cache.cross.resize_with(self.blocks.len(), KeyValueCache::default);
            cache.own.iter_mut().zip(&mut cache.cross)
        });
        let mut x_btd = ResidualStream::from(self.dropout.forward(x_btd.shallow_clone(), train));
        for block in &self.blocks {
            let (own_cache, cross_cache) = caches.as_mut().and_then(Iterator::next).unzip();
            let (mask, rotation) = (&mask, rotation.as_ref());
            if train && self.checkpointing == ActivationCheckpointing::Blocks {
                x_btd = block.forward_checkpointed(&x_btd.whole(), mask, rotation, memory)?.into();
                continue;
            }
            let own = AttentionInput { mask, rotation, cache: own_cache, train };
            x_btd = block.forward(x_btd, BlockInput { own, memory, cross_cache })?;
        }
        let x_btd = match &self.final_norm {
            Some(norm) => norm.last(x_btd)?,
            None => x_btd.whole(),
        };
        Ok(self.dropout.forward(x_btd, train))
    }
}
