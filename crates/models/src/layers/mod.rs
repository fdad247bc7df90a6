//! The parts of which all families are built, each written once.

pub mod activation;
pub mod attention;
pub mod backend;
pub mod block;
pub mod dropout;
pub mod embedding;
pub mod feed_forward;
pub mod linear;
pub mod lora;
pub mod norm;
pub mod residual;
pub mod residual_stream;
pub mod rotary;

pub use activation::Activation;
pub use attention::{AttentionInput, KeyValueCache, MultiHeadAttention, MultiHeadConfig};
pub use backend::AttentionBackend;
pub use block::Block;
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use feed_forward::{FeedForward, FeedForwardConfig, FeedForwardKind};
pub use linear::{Biased, Linear};
pub use lora::LowRankAdapter;
pub use norm::{Norm, NormKind};
pub use residual::{Placement, Residual};
pub use residual_stream::ResidualStream;
pub use rotary::{Rotary, Rotation, Yarn};
