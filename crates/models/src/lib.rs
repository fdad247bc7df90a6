//! Models that pretrain: BERT, with the parts that families share.
//!
//! | module | holds |
//! | --- | --- |
//! | [`layers`] | the parts, each written once |
//! | [`bert`] | BERT's configuration, wiring and heads |
//! | [`mask`] | who may attend to whom |
//! | [`loss`] | cross-entropy with FP32 statistics |
//! | [`hugging_face`] | model folders that transformers reads |
//!
//! Model code names its axes: `x_btd` is a tensor of batch × time × features. Each file has its
//! legend. Parameters carry their Hugging Face names from birth, so that saving a model is a dump
//! of its store.
//!
//! Errors: what a user's configuration, input or file can cause is an [`Error`]. A wrong shape
//! between two layers is a programmer's error and panics as in `tch`.

pub mod bert;
pub mod error;
pub mod hugging_face;
pub mod layers;
pub mod loss;
pub mod mask;

pub use error::{Error, Result};
