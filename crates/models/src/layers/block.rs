//! A transformer block of one stack: self-attention, then feed-forward.
//!
//! Axes: `b` batch, `t` time, `d` features.

use bert4rs_tensor_core::Tensor;

use super::{
    AttentionInput, FeedForward, KeyValueCache, Linear, MultiHeadAttention, Residual,
    ResidualStream, Rotation,
};
use crate::checkpointing::checkpoint;
use crate::error::Result;
use crate::mask::AttentionMask;

/// Attention and feed-forward, each with its residual connection. A clone has the same parameters.
#[derive(Debug, Clone)]
pub struct Block {
    /// Queries, keys and values all from the block's input.
    pub attention: MultiHeadAttention,
    /// The connection around it.
    pub around_attention: Residual,
    /// The second half.
    pub feed_forward: FeedForward,
    /// The connection around it.
    pub around_feed_forward: Residual,
}

impl Block {
    /// `[b, t, d]` to `[b, t, d]`.
    ///
    /// # Errors
    /// Attention dropout that the implementation can't do, and what libtorch throws.
    pub fn forward(
        &self,
        x_btd: ResidualStream,
        mask: &AttentionMask,
        rotation: Option<&Rotation>,
        cache: Option<&mut KeyValueCache>,
        train: bool,
    ) -> Result<ResidualStream> {
        let attended_btd = self.around_attention.forward(x_btd, train, |x_btd| {
            self.attention.forward(x_btd, AttentionInput { mask, rotation, cache, train })
        })?;
        self.around_feed_forward
            .forward(attended_btd, train, |x_btd| Ok(self.feed_forward.forward(x_btd, train)?))
    }

    /// [`forward`](Self::forward) in training, with activation checkpointing: the backward pass
    /// runs it a second time.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_checkpointed(
        &self,
        x_btd: &Tensor,
        mask: &AttentionMask,
        rotation: Option<&Rotation>,
    ) -> Result<Tensor> {
        let weights: Vec<&Tensor> = self.weights().collect();
        let (block, mask, rotation) = (self.clone(), mask.clone(), rotation.cloned());
        checkpoint(&[x_btd], &weights, self.drops(), move |inputs| {
            let x_btd = inputs[0].shallow_clone().into();
            Ok(block.forward(x_btd, &mask, rotation.as_ref(), None, true)?.whole())
        })
    }

    /// Its maps, to be changed.
    pub fn maps_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.attention.maps_mut().into_iter().chain(self.feed_forward.maps_mut())
    }

    /// Whether it draws random numbers in training.
    fn drops(&self) -> bool {
        let around = [&self.around_attention, &self.around_feed_forward];
        self.attention.drops()
            || self.feed_forward.drops()
            || around.into_iter().any(|residual| residual.dropout.acts())
    }

    /// Its parameters.
    fn weights(&self) -> impl Iterator<Item = &Tensor> {
        let norms = [&self.around_attention, &self.around_feed_forward];
        let norms = norms.into_iter().flat_map(Residual::weights);
        self.attention.weights().chain(self.feed_forward.weights()).chain(norms)
    }
}
