//! What a generation holds at the least, known before anything is allocated.

use super::{BeamSearch, GenerationConfig, Generator, Strategy};

/// Bytes of a value that a model computes, at the least: those of BF16.
const VALUE: u128 = 2;
/// Bytes of a logit, of which there are log-probabilities too.
const LOGIT: u128 = 2 * 4;
/// Bytes of a token.
const TOKEN: u128 = 8;

/// Bytes that [`generate`](super::generate) holds at the least where no text ends before
/// `max_new_tokens`: logits of all rows, their tokens, and keys and values where they are cached.
pub fn least_bytes(model: Generator, prompts: &[Vec<i64>], options: &GenerationConfig) -> u128 {
    let beams = match options.strategy {
        Strategy::Beam(BeamSearch { beams, .. }) => beams as u128,
        Strategy::Greedy | Strategy::Sample(_) => 1,
    };
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) as u128;
    let new = options.max_new_tokens as u128;
    let (vocabulary, cached, length) = match model {
        Generator::Gpt(model) => {
            let config = model.config();
            (config.vocab_size, config.n_layer * config.n_embd, longest.saturating_add(new))
        }
        Generator::T5(model) => {
            let config = model.config();
            let layers = config.num_decoder_layers.unwrap_or(config.num_layers);
            (config.vocab_size, layers * config.num_heads * config.d_kv, new)
        }
    };
    let values = |count: i64| count.unsigned_abs().into();
    let logits = LOGIT.saturating_mul(values(vocabulary));
    // Key and value of each layer.
    let keys = if options.cache { 2 * VALUE * values(cached) } else { 0 };
    let row = (TOKEN + keys).saturating_mul(length).saturating_add(logits);
    beams.saturating_mul(prompts.len() as u128).saturating_mul(row)
}
