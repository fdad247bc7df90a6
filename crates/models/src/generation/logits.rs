//! What is done to logits before a token is chosen: the formulas of transformers'
//! `logits_process`.
//!
//! Axes: `r` rows, `v` vocabulary.

use bert4rs_tensor_core::{Kind, Tensor};

/// Makes tokens that occurred less probable: a negative logit is multiplied by `penalty`, another
/// divided. Source: arXiv 1909.05858, section 4.1.
///
/// `occurred[r]` are the row's tokens so far, in any order and number.
pub fn repetition_penalty(logits_rv: &Tensor, occurred: &[&[i64]], penalty: f64) -> Tensor {
    if penalty == 1.0 {
        return logits_rv.shallow_clone();
    }
    let (rows, v) = (logits_rv.size()[0], logits_rv.size()[1] as usize);
    let mut has_occurred = vec![false; rows as usize * v];
    for (row, tokens) in occurred.iter().enumerate() {
        tokens.iter().for_each(|&token| has_occurred[row * v + token as usize] = true);
    }
    let occurred_rv =
        Tensor::from_slice(&has_occurred).view([rows, v as i64]).to_device(logits_rv.device());
    let less_rv = (logits_rv * penalty).where_self(&logits_rv.lt(0.0), &(logits_rv / penalty));
    less_rv.where_self(&occurred_rv, logits_rv)
}

/// Logits divided by `temperature`: below 1 makes probable tokens more probable.
pub fn temperature(logits_rv: &Tensor, temperature: f64) -> Tensor {
    logits_rv / temperature
}

/// Minus infinity for tokens that are less probable than the `k`-th. Source: arXiv 1805.04833.
pub fn top_k(logits_rv: &Tensor, k: i64) -> Tensor {
    let k = k.min(logits_rv.size()[1]);
    let (best_rk, _) = logits_rv.topk(k, -1, true, true);
    let least_r1 = best_rk.narrow(1, k - 1, 1);
    logits_rv.masked_fill(&logits_rv.lt_tensor(&least_r1), f64::NEG_INFINITY)
}

/// Minus infinity for all but the fewest tokens whose probabilities add up to `p`: the least
/// probable ones are left out while together they have at most `1 - p`. Source: arXiv 1904.09751.
pub fn top_p(logits_rv: &Tensor, p: f64) -> Tensor {
    let (sorted_rv, order_rv) = logits_rv.sort(-1, false);
    let below_rv = sorted_rv.softmax(-1, Kind::Float).cumsum(-1, Kind::Float);
    let out_rv = below_rv.le(1.0 - p);
    // The most probable one stays.
    let last = logits_rv.size()[1] - 1;
    let _ = out_rv.narrow(1, last, 1).fill_(0);
    let out_rv = out_rv.scatter(1, &order_rv, &out_rv);
    logits_rv.masked_fill(&out_rv, f64::NEG_INFINITY)
}
