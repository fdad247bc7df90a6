//! Text token by token, with the semantics of transformers' `generate`.
//!
//! | module | holds |
//! | --- | --- |
//! | [`logits`] | temperature, top-k, top-p, repetition penalty: formulas alone |
//! | `decoder` | GPT and T5 run token by token, with or without a cache |
//! | `memory` | what it takes at the least |
//! | `sampling` | greedy search and sampling |
//! | `beam` | beam search |
//!
//! Axes: `r` rows, `t` time, `v` vocabulary.

mod beam;
mod decoder;
pub mod logits;
mod memory;
mod sampler;
mod sampling;

use crate::error::{Error, Result};
use crate::gpt::Gpt;
use crate::t5::T5;
use decoder::{Decoder, GptDecoder, T5Decoder};
pub use memory::least_bytes;

/// A model that generates.
#[derive(Debug, Clone, Copy)]
pub enum Generator<'a> {
    /// Continues prompts.
    Gpt(&'a Gpt),
    /// Answers prompts, which its encoder reads.
    T5(&'a T5),
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// The most probable one.
    Greedy,
    /// At random, by probability.
    Sample(Sampling),
    /// The most probable sequence, as far as `beams` candidates find it.
    Beam(BeamSearch),
}

/// How probabilities are changed before a token is drawn, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 1 changes nothing.
    pub temperature: f64,
    /// Only the `k` most probable tokens are drawn.
    pub top_k: Option<i64>,
    /// Only the fewest tokens that together have this probability are drawn.
    pub top_p: Option<f64>,
    /// Equal seeds draw equal texts, whatever else is in the batch.
    pub seed: u64,
}

/// A beam search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamSearch {
    /// Candidates kept for each prompt.
    pub beams: usize,
    /// A finished candidate's log-probability is divided by its length to this power; above 0
    /// favours long ones. 1 in transformers.
    pub length_penalty: f64,
    /// When the search ends.
    pub early_stopping: EarlyStopping,
}

/// When a beam search ends before `max_new_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// Where no candidate of this length could beat the finished ones: transformers' `False`.
    Heuristic,
    /// As soon as enough candidates are finished: transformers' `True`.
    WhenFull,
    /// Where no candidate of any length could: transformers' `"never"`.
    Never,
}

/// What is generated and how.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationConfig {
    /// The most tokens that are added to a prompt.
    pub max_new_tokens: usize,
    /// How a token is chosen.
    pub strategy: Strategy,
    /// Above 1 makes tokens that occurred less probable; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Tokens that end a text.
    pub ends: Vec<i64>,
    /// Whether keys and values are kept from token to token, for the same result in less time.
    pub cache: bool,
}

impl GenerationConfig {
    /// Refuses what no generation can have.
    ///
    /// # Errors
    /// The option, its value, and what is expected.
    pub fn validate(&self) -> Result<()> {
        let check = |name, fits: bool, found: String, expected: &str| match fits {
            true => Ok(()),
            false => Err(Error::Input { name, found, expected: expected.into() }),
        };
        let above_0 = |value: f64| value.is_finite() && value > 0.0;
        let penalty = self.repetition_penalty;
        let count = self.max_new_tokens;
        check("max_new_tokens", count > 0, count.to_string(), "at least 1")?;
        check("repetition_penalty", above_0(penalty), penalty.to_string(), "a number above 0")?;
        match self.strategy {
            Strategy::Greedy => Ok(()),
            Strategy::Sample(Sampling { temperature, top_k, top_p, .. }) => {
                let (k, p) = (top_k.unwrap_or(1), top_p.unwrap_or(1.0));
                let temperature_text = temperature.to_string();
                check("temperature", above_0(temperature), temperature_text, "a number above 0")?;
                check("top_k", k > 0, k.to_string(), "at least 1")?;
                let fits = p > 0.0 && p <= 1.0;
                check("top_p", fits, p.to_string(), "a probability above 0, at most 1")
            }
            Strategy::Beam(BeamSearch { beams, length_penalty, .. }) => {
                check("beams", beams > 0, beams.to_string(), "at least 1")?;
                let penalty = length_penalty.to_string();
                check("length_penalty", length_penalty.is_finite(), penalty, "a number")
            }
        }
    }
}

/// The tokens that follow each of `prompts`, with the one that ended it, if any.
///
/// Prompts may be of different lengths: GPT's are padded on the left and T5's on the right, which
/// changes nothing for real tokens. `on_token` sees each prompt's tokens in their order, as soon
/// as they are certain: at once, but for beams, where all come at the end.
///
/// # Errors
/// GenerationConfig that [`GenerationConfig::validate`] refuses, no prompt, an empty prompt, tokens
/// that the model does not have, and more tokens than it has positions.
pub fn generate(
    model: Generator,
    prompts: &[Vec<i64>],
    options: &GenerationConfig,
    on_token: &mut dyn FnMut(usize, i64),
) -> Result<Vec<Vec<i64>>> {
    check(model, prompts, options)?;
    bert4rs_tensor_core::no_grad(|| {
        let (mut decoder, start): (Box<dyn Decoder>, Start) = match model {
            Generator::Gpt(model) => {
                let start = Start::of_gpt(prompts);
                (Box::new(GptDecoder::new(model, &start, options.cache)), start)
            }
            Generator::T5(model) => {
                let start = Start::of_t5(model, prompts.len());
                (Box::new(T5Decoder::new(model, prompts, options.cache)?), start)
            }
        };
        match options.strategy {
            Strategy::Beam(search) => beam::run(decoder.as_mut(), start, options, search, on_token),
            _ => sampling::run(decoder.as_mut(), start, options, on_token),
        }
    })
}

/// What a decoder begins with: rows of one length.
#[derive(Debug)]
struct Start {
    tokens: Vec<Vec<i64>>,
    /// How many tokens of each row are padding.
    padding: Vec<usize>,
}

impl Start {
    fn of_gpt(prompts: &[Vec<i64>]) -> Self {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let padding: Vec<usize> = prompts.iter().map(|prompt| longest - prompt.len()).collect();
        let padded = prompts.iter().zip(&padding).map(|(prompt, &padding)| {
            let mut row = vec![0; padding];
            row.extend(prompt);
            row
        });
        Self { tokens: padded.collect(), padding }
    }

    fn of_t5(model: &T5, rows: usize) -> Self {
        let start = model.config().pad_token_id;
        Self { tokens: vec![vec![start]; rows], padding: vec![0; rows] }
    }
}

/// Refuses what [`generate`] refuses, before anything is computed.
///
/// # Errors
/// As [`generate`].
pub fn check(model: Generator, prompts: &[Vec<i64>], options: &GenerationConfig) -> Result<()> {
    options.validate()?;
    let vocabulary = match model {
        Generator::Gpt(model) => model.config().vocab_size,
        Generator::T5(model) => model.config().vocab_size,
    };
    let refuse =
        |name, found: String, expected: String| Err(Error::Input { name, found, expected });
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        return refuse("prompt", "no token".into(), "at least one token in each prompt".into());
    }
    let unknown = |id: &&i64| !(0..vocabulary).contains(*id);
    if let Some(id) = prompts.iter().flatten().find(unknown) {
        let expected = format!("0 to {} (vocab_size = {vocabulary})", vocabulary - 1);
        return refuse("prompt", format!("token {id}"), expected);
    }
    match room(model, prompts) {
        Some(room) if options.max_new_tokens > room => {
            let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
            let found = format!("{} after a prompt of {longest} tokens", options.max_new_tokens);
            refuse("max_new_tokens", found, format!("at most {room}, for which it has positions"))
        }
        _ => Ok(()),
    }
}

/// The most tokens that can be added to the longest prompt, `None` where there is no limit. The
/// last token takes no position.
pub fn room(model: Generator, prompts: &[Vec<i64>]) -> Option<usize> {
    match model {
        Generator::Gpt(model) if model.config().overrides.rotary.is_none() => {
            let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
            Some((model.config().n_positions as usize + 1).saturating_sub(longest))
        }
        _ => None,
    }
}
