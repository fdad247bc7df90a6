//! Beam search, with the rules of transformers' `_beam_search`.
//!
//! Each prompt has `beams` running candidates, and keeps as many finished ones. A step
//! takes the best `keep` continuations of all running ones; those that end compete with the
//! finished ones, the best of the others stay running.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Tensor};

use super::decoder::Decoder;
use super::{BeamSearch, EarlyStopping, GenerationConfig, Start, logits};
use crate::error::{Error, Result};

/// Added to the score of what must not be chosen.
const NEVER: f32 = -1e9;

/// A sequence and its score: the log-probability of its new tokens, for finished ones divided by
/// the length penalty.
#[derive(Debug, Clone)]
struct Candidate {
    tokens: Vec<i64>,
    score: f32,
    finished: bool,
    /// The running row of this prompt that it continues.
    from: usize,
}

/// The candidates of one prompt.
#[derive(Debug)]
struct Group {
    running: Vec<Candidate>,
    finished: Vec<Candidate>,
    /// Whether a running candidate may still beat a finished one.
    can_improve: bool,
}

impl Group {
    fn new(prompt: &[i64], beams: usize) -> Self {
        let candidate =
            |score| Candidate { tokens: prompt.to_vec(), score, finished: false, from: 0 };
        // All begin alike: only the first may be continued at first.
        let running = (0..beams).map(|beam| candidate(if beam == 0 { 0.0 } else { NEVER }));
        let finished = vec![candidate(NEVER); beams];
        Self { running: running.collect(), finished, can_improve: true }
    }

    /// The best `keep` continuations, best first, by log-probabilities `[beams, v]`.
    fn continuations(&self, log_probs: &Tensor, keep: i64) -> Result<Vec<Candidate>> {
        let v = log_probs.size()[1];
        let scores: Vec<f32> = self.running.iter().map(|candidate| candidate.score).collect();
        let scores_b1 = Tensor::from_slice(&scores).unsqueeze(1).to_device(log_probs.device());
        let (best, indices) = (log_probs + scores_b1).flatten(0, 1).topk(keep, -1, true, true);
        let best = Vec::<f32>::try_from(&best).during("beams' scores")?;
        let indices = Vec::<i64>::try_from(&indices).during("beams' tokens")?;
        let made = best.into_iter().zip(indices).map(|(score, index)| {
            let from = (index / v) as usize;
            let mut tokens = self.running[from].tokens.clone();
            tokens.push(index % v);
            Candidate { tokens, score, finished: false, from }
        });
        Ok(made.collect())
    }

    /// Sorts continuations into running and finished ones. `ends` says which of them end.
    fn advance(&mut self, made: &[Candidate], ends: &[bool], length: f32, search: &BeamSearch) {
        let beams = search.beams;
        let full = search.early_stopping == EarlyStopping::WhenFull && self.is_full();
        let penalised = |index: usize, candidate: &Candidate| {
            let mut score = candidate.score / length.powf(search.length_penalty as f32);
            score += if full { NEVER } else { 0.0 };
            score += if self.can_improve { 0.0 } else { NEVER };
            let finished = ends[index] && index < beams;
            score += if finished { 0.0 } else { NEVER };
            Candidate { score, finished, ..candidate.clone() }
        };
        let new: Vec<Candidate> =
            made.iter().enumerate().map(|(index, made)| penalised(index, made)).collect();
        let mut running: Vec<Candidate> = made.to_vec();
        for (candidate, &ends) in running.iter_mut().zip(ends) {
            candidate.score += if ends { NEVER } else { 0.0 };
        }
        self.running = best(running, beams);
        let mut finished = std::mem::take(&mut self.finished);
        finished.extend(new);
        self.finished = best(finished, beams);
    }

    /// Whether a running candidate, at best, could still beat the worst finished one.
    fn could_improve(&self, hypothetical_length: f32, length_penalty: f64) -> bool {
        let best = self.running[0].score / hypothetical_length.powf(length_penalty as f32);
        let least = self.finished.iter().map(|finished| finished.score).fold(f32::MAX, f32::min);
        self.finished.iter().any(|beam| best > if beam.finished { least } else { NEVER })
    }

    fn is_full(&self) -> bool {
        self.finished.iter().all(|candidate| candidate.finished)
    }
}

/// The `count` candidates of the best scores, best first.
fn best(mut candidates: Vec<Candidate>, count: usize) -> Vec<Candidate> {
    candidates.sort_by(|left, right| right.score.total_cmp(&left.score));
    candidates.truncate(count);
    candidates
}

/// The new tokens of each prompt's best candidate.
pub(super) fn run(
    decoder: &mut dyn Decoder,
    start: Start,
    options: &GenerationConfig,
    search: BeamSearch,
    on_token: &mut dyn FnMut(usize, i64),
) -> Result<Vec<Vec<i64>>> {
    let (beams, begin) = (search.beams, start.tokens[0].len());
    let mut groups: Vec<Group> =
        start.tokens.iter().map(|prompt| Group::new(prompt, beams)).collect();
    let mut logits_rv = decoder.next(&start.tokens)?;
    let keep = check_beams(&logits_rv, beams, options.ends.len())?;
    let all: Vec<i64> =
        (0..groups.len() as i64).flat_map(|row| std::iter::repeat_n(row, beams)).collect();
    decoder.select_rows(&all);
    logits_rv = logits_rv.index_select(0, &Tensor::from_slice(&all).to_device(logits_rv.device()));
    for step in 1..=options.max_new_tokens {
        if step > 1 {
            let rows: Vec<Vec<i64>> = groups
                .iter()
                .flat_map(|group| group.running.iter().map(|beam| beam.tokens.clone()))
                .collect();
            logits_rv = decoder.next(&rows)?;
        }
        let log_probs = log_probs(&logits_rv, &groups, &start.padding, options);
        let mut all_end = true;
        for (index, group) in groups.iter_mut().enumerate() {
            let own = log_probs.narrow(0, (index * beams) as i64, beams as i64);
            let made = group.continuations(&own, keep)?;
            let is_last = step == options.max_new_tokens;
            let ends: Vec<bool> =
                made.iter().map(|made| is_last || ends_with(made, &options.ends)).collect();
            all_end &= ends.iter().all(|&ends| ends);
            group.advance(&made, &ends, step as f32, &search);
            let favours_long = search.length_penalty > 0.0;
            let never = search.early_stopping == EarlyStopping::Never && favours_long;
            let length = if never { options.max_new_tokens } else { step };
            group.can_improve &= group.could_improve(length as f32, search.length_penalty);
        }
        let full = groups.iter().all(Group::is_full);
        let stops = search.early_stopping == EarlyStopping::WhenFull && full;
        if all_end || stops || !groups.iter().any(|group| group.can_improve) {
            break;
        }
        let from = groups.iter().enumerate().flat_map(|(index, group)| {
            group.running.iter().map(move |beam| (index * beams + beam.from) as i64)
        });
        decoder.select_rows(&from.collect::<Vec<_>>());
    }
    Ok(finish(groups, begin, on_token))
}

/// How many continuations a step takes: enough for `beams` to run on where all ends are among
/// them.
fn check_beams(logits_rv: &Tensor, beams: usize, ends: usize) -> Result<i64> {
    let keep = (beams * (1 + ends).max(2)) as i64;
    let v = logits_rv.size()[1];
    if keep <= v * beams as i64 {
        return Ok(keep);
    }
    let (name, found) = ("beams", beams.to_string());
    Err(Error::Input { name, found, expected: format!("fewer for a vocabulary of {v} tokens") })
}

/// Log-probabilities `[r, v]`, which the repetition penalty changes, as in transformers.
fn log_probs(
    logits_rv: &Tensor,
    groups: &[Group],
    padding: &[usize],
    options: &GenerationConfig,
) -> Tensor {
    let log_probs_rv = logits_rv.log_softmax(-1, Kind::Float);
    let occurred: Vec<&[i64]> = groups
        .iter()
        .zip(padding)
        .flat_map(|(group, &padding)| group.running.iter().map(move |beam| &beam.tokens[padding..]))
        .collect();
    logits::repetition_penalty(&log_probs_rv, &occurred, options.repetition_penalty)
}

fn ends_with(candidate: &Candidate, ends: &[i64]) -> bool {
    candidate.tokens.last().is_some_and(|token| ends.contains(token))
}

fn finish(groups: Vec<Group>, begin: usize, on_token: &mut dyn FnMut(usize, i64)) -> Vec<Vec<i64>> {
    let best = groups.into_iter().map(|group| group.finished[0].tokens[begin..].to_vec());
    let best: Vec<Vec<i64>> = best.collect();
    for (row, tokens) in best.iter().enumerate() {
        tokens.iter().for_each(|&token| on_token(row, token));
    }
    best
}
