//! Models that pretrain: BERT, GPT and T5, from parts that they share.
//!
//! | module | holds |
//! | --- | --- |
//! | [`layers`] | the parts, each written once |
//! | [`bert`], [`gpt`], [`t5`] | a family's configuration, wiring and heads |
//! | [`overrides`] | departures from the published forms, one set for all families |
//! | [`mask`] | who may attend to whom |
//! | [`loss`] | cross-entropy with FP32 statistics, label smoothing, z-loss |
//! | [`pooling`] | sentence embeddings |
//! | [`hugging_face`] | model folders that transformers reads |
//! | [`generation`] | text token by token: greedy, sampled, by beams |
//! | [`pretrained`] | a model folder's model, whatever its architecture |
//!
//! Model code names its axes: `x_btd` is a tensor of batch × time × features. Each file has its
//! legend. Parameters carry their Hugging Face names from birth, so that saving a model is a dump
//! of its store.
//!
//! Errors: what a user's configuration, input or file can cause is an [`Error`]. A wrong shape
//! between two layers is a programmer's error and panics as in `tch`.

pub mod bert;
mod check;
pub mod checkpointing;
pub mod error;
pub mod generation;
pub mod gpt;
pub mod hugging_face;
mod input;
pub mod layers;
pub mod loss;
pub mod mask;
pub mod overrides;
pub mod pooling;
pub mod pretrained;
pub mod t5;

pub use error::{Error, Result};
