//! Greedy search and sampling.

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::error::Context;

use super::decoder::Decoder;
use super::sampler::Sampler;
use super::{GenerationConfig, Start, Strategy, logits};
use crate::error::Result;

/// The new tokens of each row, each handed to `on_token` as it is chosen.
pub(super) fn run(
    decoder: &mut dyn Decoder,
    start: Start,
    options: &GenerationConfig,
    on_token: &mut dyn FnMut(usize, i64),
) -> Result<Vec<Vec<i64>>> {
    let Start { mut tokens, padding } = start;
    let begin = tokens[0].len();
    let mut ended_at = vec![None; tokens.len()];
    let mut sampler = match options.strategy {
        Strategy::Sample(sampling) => Some(Sampler::new(sampling, tokens.len())),
        _ => None,
    };
    for _ in 0..options.max_new_tokens {
        let logits_rv = decoder.next(&tokens)?;
        let occurred: Vec<&[i64]> =
            tokens.iter().zip(&padding).map(|(row, &padding)| &row[padding..]).collect();
        let logits_rv =
            logits::repetition_penalty(&logits_rv, &occurred, options.repetition_penalty);
        let chosen = match &mut sampler {
            Some(sampler) => sampler.draw(&logits_rv)?,
            None => most_probable(&logits_rv)?,
        };
        for (row, token) in chosen.into_iter().enumerate() {
            // An ended row goes on unseen until the others have ended.
            tokens[row].push(token);
            if ended_at[row].is_none() {
                on_token(row, token);
                if options.ends.contains(&token) {
                    ended_at[row] = Some(tokens[row].len());
                }
            }
        }
        if ended_at.iter().all(Option::is_some) {
            break;
        }
    }
    let rows = tokens.into_iter().zip(ended_at);
    Ok(rows.map(|(row, end)| row[begin..end.unwrap_or(row.len())].to_vec()).collect())
}

fn most_probable(logits_rv: &Tensor) -> Result<Vec<i64>> {
    Ok(Vec::try_from(logits_rv.argmax(-1, false)).during("the next token")?)
}
