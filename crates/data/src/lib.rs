//! From plain text to batches: masked tokens, next tokens, corrupted spans.
//!
//! A corpus is read once: a tokenizer is trained on it or loaded, and its tokens go to shards in a
//! cache. Batches are made of those, each a pure function of the seed and its number, on threads
//! that run ahead of the model.
//!
//! | module | holds |
//! | --- | --- |
//! | [`text`] | the one reader of text: UTF-8 and UTF-16 |
//! | [`corpus`] | files of text in many formats, read in pieces of bounded size |
//! | [`tokenizer`] | WordPiece, byte-level BPE, Unigram: trained, or loaded from a model folder |
//! | [`shard`] | tokens on disk |
//! | [`prepare`](mod@prepare) | corpus and tokenizer to a cached dataset |
//! | [`dataset`] | a prepared corpus in its folder |
//! | [`summary`] | numbers of a dataset that took a pass over its tokens |
//! | [`progress`] | how far a preparation is |
//! | [`inspect`] | what the documents and tokens of a dataset are like |
//! | [`packing`] | documents into sequences of one length |
//! | [`layout`] | sequences into rows, with or without padding |
//! | [`mixture`] | several corpora with weights |
//! | [`duplicates`] | equal and near documents |
//! | [`masking`] | single tokens, words or spans to hide |
//! | [`denoisers`] | span corruption, or UL2's mixture |
//! | [`staged`] | short sequences first |
//! | [`mlm`] | masked tokens, for BERT |
//! | [`causal`] | next tokens, for GPT |
//! | [`spans`] | corrupted spans, for T5 |
//! | [`noise`] | which tokens span corruption hides |
//! | [`batch`], [`named_tensors`] | batches, as numbers and as tensors |
//! | [`prefetch`] | batches made ahead by threads |
//! | [`unigram`] | losses that a model must beat |
//! | [`fingerprint`] | a hash of the batches that a run was shown |
//! | [`error`] | the one error type |
//!
//! ```
//! use std::sync::Arc;
//!
//! use bert4rs_data::{
//!     CorpusReading, DatasetOptions, Duplicates, Fit, HeldOut, Layout, MaskUnit, MlmBatches,
//! MlmOptions, Objective,
//!     Prefetcher, SHARD_TOKENS, TokenizerChoice, TokenizerTraining, prepare,
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
//!         reading: CorpusReading::default(),
//!         objective: Objective::MaskedTokens,
//!         tokenizer: TokenizerChoice::Train(TokenizerTraining::new(100)),
//!         held_out: HeldOut::Share(0.1),
//!         cache: folder.path().join("cache"),
//!         shard_tokens: SHARD_TOKENS,
//!         duplicates: Duplicates::Keep,
//!     },
//!     &mut |_progress| {},
//! )?;
//! let layout = Layout::Packed;
//! let (unit, fit) = (MaskUnit::Tokens, Fit::EndToEnd);
//! let options = MlmOptions {
//!     batch_size: 2,
//!     sequence_length: 64,
//!     mask_rate: 0.15,
//!     unit,
//!     layout,
//!     fit,
//!     seed: 1,
//! };
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
mod best_fit;
pub mod causal;
pub mod corpus;
pub mod dataset;
pub mod denoisers;
pub mod duplicates;
pub mod error;
pub mod fingerprint;
pub mod inspect;
pub mod layout;
pub mod masking;
pub mod mixture;
pub mod mlm;
pub mod named_tensors;
pub mod noise;
mod order;
mod ordered_parallel;
pub mod packing;
pub mod prefetch;
pub mod prepare;
pub mod progress;
mod random;
mod sealed;
mod sequences;
pub mod shard;
pub mod spans;
mod split;
pub mod staged;
pub mod summary;
pub mod text;
pub mod tokenizer;
mod unfinished;
pub mod unigram;
mod verified;

pub use batch::{CausalBatch, MlmBatch, SpanBatch, TokenBatch};
pub use causal::{CausalBatches, CausalOptions};
pub use corpus::{Corpus, CorpusReading, DocumentBreak, TableReader, TableRow};
pub use dataset::Dataset;
pub use denoisers::Denoising;
pub use duplicates::Duplicates;
pub use error::{Error, Result};
pub use fingerprint::{BatchDigest, Fingerprint};
pub use layout::Layout;
pub use masking::MaskUnit;
pub use mixture::Mixture;
pub use mlm::{MlmBatches, MlmOptions};
pub use named_tensors::NamedTensors;
pub use noise::Noise;
pub use packing::{Fit, PackingReport};
pub use prefetch::{BatchSource, Prefetcher};
pub use prepare::{
    DatasetOptions, HeldOut, SHARD_TOKENS, TokenizerChoice, prepare, prepare_tokenizer,
};
pub use progress::{Phase, Progress};
pub use shard::TokenStore;
pub use spans::{SpanBatches, SpanOptions};
pub use staged::Staged;
pub use summary::DatasetSummary;
pub use text::read_text;
pub use tokenizer::{
    EncodedText, ModelTokenizer, Objective, PairTokenizer, SpanTokens, SpecialTokens,
    TextTokenizer, TextWindow, TokenizerTraining, Vocabulary, WindowTokenizer,
};
