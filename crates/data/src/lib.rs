//! From plain text to batches: masked tokens, next tokens, corrupted spans.
//!
//! | module | holds |
//! | --- | --- |
//! | [`corpus`] | text files, read in pieces of whole documents |
//! | [`tokenizer`] | WordPiece, trained or loaded; the tokenizers of model folders |
//! | [`shard`] | tokens on disk, mapped into memory |
//! | [`prepare`](mod@prepare) | corpus and tokenizer to a cached dataset |
//! | [`packing`] | documents into sequences of one length |
//! | [`layout`] | sequences into rows, with or without padding |
//! | [`mlm`] | masked tokens, for BERT |
//! | [`causal`] | next tokens, for GPT |
//! | [`spans`] | corrupted spans, for T5 |
//! | [`batch`] | batches, as numbers and as tensors |
//! | [`prefetch`] | batches made ahead by threads |
//! | [`unigram`] | losses that a model must beat |
//!
//! ```
//! use std::sync::Arc;
//!
//! use bert4rs_data::{
//!     DatasetOptions, Layout, MlmBatches, MlmOptions, Objective, Prefetcher, TokenizerChoice,
//!     prepare,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let text = folder.path().join("corpus.txt");
//! std::fs::write(&text, "A cat sat on a mat.\n\nThe cat saw the mat.\n\n".repeat(50))?;
//!
//! let dataset = prepare(
//!     &DatasetOptions {
//!         corpus: vec![text],
//!         objective: Objective::MaskedTokens,
//!         tokenizer: TokenizerChoice::Train { vocab_size: 100 },
//!         held_out_fraction: 0.1,
//!         cache: folder.path().join("cache"),
//!     },
//!     &mut |_progress| {},
//! )?;
//! let layout = Layout::Packed;
//! let options =
//!     MlmOptions { batch_size: 2, sequence_length: 64, mask_rate: 0.15, layout, seed: 1 };
//! let batches = MlmBatches::train(dataset.train, dataset.tokenizer.vocabulary()?, options)?;
//!
//! let mut prefetcher = Prefetcher::new(Arc::new(batches), 0, 4, 2)?;
//! let batch = prefetcher.next()?;
//! assert_eq!((batch.rows, batch.columns), (2, 64));
//! assert_eq!(batch.masked_positions.len(), 2 * 10);
//! # Ok(())
//! # }
//! ```

pub mod batch;
pub mod causal;
pub mod corpus;
pub mod error;
pub mod fingerprint;
pub mod layout;
pub mod mlm;
mod order;
pub mod packing;
pub mod prefetch;
pub mod prepare;
pub mod progress;
mod random;
mod rounds;
mod sequences;
pub mod shard;
pub mod spans;
mod split;
pub mod tokenizer;
pub mod unigram;

pub use batch::{CausalBatch, MlmBatch, MlmTensors, SpanBatch};
pub use causal::{CausalBatches, CausalOptions};
pub use corpus::Corpus;
pub use error::{Error, Result};
pub use fingerprint::Fingerprint;
pub use layout::Layout;
pub use mlm::{MlmBatches, MlmOptions};
pub use prefetch::{BatchSource, Prefetcher};
pub use prepare::{Dataset, DatasetOptions, Summary, TokenizerChoice, prepare};
pub use progress::{Phase, Progress};
pub use shard::TokenShard;
pub use spans::{Noise, SpanBatches, SpanOptions};
pub use tokenizer::{
    ModelTokenizer, Objective, SpanTokens, SpecialTokens, TextTokenizer, Vocabulary,
};
