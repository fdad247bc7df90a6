//! On the CPU: softmax and gradients of logits in place, and the output layer's products with them.

pub(super) mod blocks;
mod columns;
pub(super) mod softmax;
