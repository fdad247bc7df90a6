//! The parts of which all families are built, each written once.

pub mod activation;
pub mod attention;
pub mod dropout;
pub mod embedding;
pub mod feed_forward;
pub mod linear;
pub mod norm;

pub use activation::Activation;
pub use attention::{MultiHeadAttention, MultiHeadConfig};
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use feed_forward::{FeedForward, FeedForwardConfig};
pub use linear::Linear;
pub use norm::LayerNorm;
