//! What is learned of the vectors of texts that are compared. Each loss is the sum over the
//! examples of the one in sentence-transformers, which takes their mean.
//!
//! Axes: `n` examples, `k` texts of one (2, or 3 with a negative), `d` features, `m` candidates.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Reduction, Tensor};

use crate::error::Result;

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SimilarityObjective {
    /// `(cos(u, v) - score)²`: `CosineSimilarityLoss`.
    Cosine,
    /// `-log softmax(scale · cos(u, vⱼ))ᵢ` of the text that belongs to `u` among all others of the
    /// batch, negatives too: `MultipleNegativesRankingLoss` (arXiv 1705.00652).
    Ranking {
        /// What cosines are multiplied by.
        scale: f64,
    },
    /// `max(0, |u - v| - |u - w| + margin)`: `TripletLoss` (arXiv 1503.03832).
    Triplet {
        /// How much farther `w` is to be than `v`.
        margin: f64,
    },
}

impl SimilarityObjective {
    /// The sum of the losses of vectors `[n, k, d]` in FP32, a scalar; of `Cosine`, for the scores
    /// `[n]` in FP32.
    ///
    /// # Errors
    /// What libtorch throws, such as of texts that are too few.
    pub fn loss(self, vectors_nkd: &Tensor, scores_n: Option<&Tensor>) -> Result<Tensor> {
        let loss = match self {
            Self::Cosine => cosine(vectors_nkd, scores_n),
            Self::Ranking { scale } => ranking(vectors_nkd, scale),
            Self::Triplet { margin } => triplet(vectors_nkd, margin),
        };
        Ok(loss.during("loss of compared texts")?)
    }

    /// Whether it can be had of examples of `texts` texts each, with or without scores.
    pub fn fits(self, texts: i64, scored: bool) -> bool {
        match self {
            Self::Cosine => scored,
            Self::Ranking { .. } => !scored,
            Self::Triplet { .. } => texts == 3,
        }
    }
}

type TorchResult = std::result::Result<Tensor, bert4rs_tensor_core::TchError>;

/// The cosine of two vectors of each example, `[n]`.
///
/// # Errors
/// What libtorch throws.
pub(super) fn cosines(vectors_nkd: &Tensor, one: i64, other: i64) -> TorchResult {
    let (one_nd, other_nd) = (vectors_nkd.f_select(1, one)?, vectors_nkd.f_select(1, other)?);
    Tensor::f_cosine_similarity(&one_nd, &other_nd, 1, 1e-8)
}

/// Vectors of length 1.
pub(super) fn normalized(x_nd: &Tensor) -> TorchResult {
    let length_n1 = x_nd.f_norm_scalaropt_dim(2, [-1i64].as_slice(), true)?;
    x_nd.f_div(&length_n1.f_clamp_min(1e-12)?)
}

fn cosine(vectors_nkd: &Tensor, scores_n: Option<&Tensor>) -> TorchResult {
    let found_n = cosines(vectors_nkd, 0, 1)?;
    match scores_n {
        Some(scores_n) => found_n.f_mse_loss(scores_n, Reduction::Sum),
        None => found_n.f_zeros_like()?.f_sum(Kind::Float),
    }
}

fn ranking(vectors_nkd: &Tensor, scale: f64) -> TorchResult {
    let (n, k) = (vectors_nkd.size()[0], vectors_nkd.size()[1]);
    let of = |place: i64| normalized(&vectors_nkd.f_select(1, place)?);
    let candidates = (1..k).map(of).collect::<std::result::Result<Vec<_>, _>>()?;
    let candidates_md = Tensor::f_cat(&candidates, 0)?;
    let logits_nm = of(0)?.f_matmul(&candidates_md.f_transpose(0, 1)?)?.f_mul_scalar(scale)?;
    let right_n = Tensor::f_arange(n, (Kind::Int64, vectors_nkd.device()))?;
    logits_nm.f_cross_entropy_loss(&right_n, None::<Tensor>, Reduction::Sum, -100, 0.0)
}

fn triplet(vectors_nkd: &Tensor, margin: f64) -> TorchResult {
    let of = |place: i64| vectors_nkd.f_select(1, place);
    let distance = |place: i64| Tensor::f_pairwise_distance(&of(0)?, &of(place)?, 2.0, 1e-6, false);
    let too_far_n = distance(1)?.f_sub(&distance(2)?)?.f_add_scalar(margin)?;
    too_far_n.f_relu()?.f_sum(Kind::Float)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bert4rs_tensor_core::{autograd, safetensors};

    use super::*;

    /// sentence-transformers' losses are means: `tests/vectors/make_similarity.py`.
    #[test]
    fn losses_and_gradients_equal_those_of_sentence_transformers() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/similarity.safetensors");
        let kept = safetensors::load(&path).unwrap();
        for (name, objective, texts) in [
            ("cosine", SimilarityObjective::Cosine, 2),
            ("pairs", SimilarityObjective::Ranking { scale: 20.0 }, 2),
            ("negatives", SimilarityObjective::Ranking { scale: 20.0 }, 3),
            ("triplet", SimilarityObjective::Triplet { margin: 0.5 }, 3),
        ] {
            let vectors = kept["vectors"].copy().set_requires_grad(true);
            let read = vectors.narrow(1, 0, texts);
            let mean = objective.loss(&read, Some(&kept["scores"])).unwrap() / 5.0;
            let off = (mean.double_value(&[]) - kept[name].double_value(&[])).abs();
            assert!(off < 1e-6, "{name}: {off}");
            let gradient = &autograd::gradients(&mean, &[vectors]).unwrap()[0];
            let off = gradient - &kept[&format!("{name}.gradient")];
            let off = off.abs().max().double_value(&[]);
            assert!(off < 1e-6, "{name}: {off}");
        }
    }
}
