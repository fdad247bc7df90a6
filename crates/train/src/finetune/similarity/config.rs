//! What `finetune similarity` is told beside its files.

use bert4rs_models::embedding::Pooling;
use serde::{Deserialize, Serialize};

use super::objective::SimilarityObjective;
use super::read::ComparisonForm;
use crate::config::validate::Fault;

/// How vectors are brought together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimilarityConfig {
    /// Which loss.
    pub loss: SimilarityLoss,
    /// `ranking`: what cosines are multiplied by.
    pub scale: f64,
    /// `triplet`: how much farther the third text is to be than the second.
    pub margin: f64,
    /// Texts that are encoded at once; 0 means all of a batch.
    pub encode_at_once: usize,
    /// How a text's vector is made; empty means as the folder says.
    pub pooling: String,
}

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SimilarityLoss {
    /// By the columns: scores `cosine`, pairs `ranking`, triplets `triplet`.
    Auto,
    /// Cosines are to be the scores.
    Cosine,
    /// A text is to be nearest to the one that belongs to it, of all in the batch.
    Ranking,
    /// The second text is to be nearer than the third.
    Triplet,
}

impl SimilarityConfig {
    /// The loss of examples of the form `form`; what they lack where it has none for them.
    ///
    /// # Errors
    /// What the table needs.
    pub fn objective(&self, form: ComparisonForm) -> Result<SimilarityObjective, &'static str> {
        let ranking = SimilarityObjective::Ranking { scale: self.scale };
        let triplet = SimilarityObjective::Triplet { margin: self.margin };
        match (self.loss, form) {
            (SimilarityLoss::Auto | SimilarityLoss::Cosine, ComparisonForm::Scored) => {
                Ok(SimilarityObjective::Cosine)
            }
            (SimilarityLoss::Auto, ComparisonForm::Paired) | (SimilarityLoss::Ranking, _) => {
                Ok(ranking)
            }
            (SimilarityLoss::Auto | SimilarityLoss::Triplet, ComparisonForm::Triplets) => {
                Ok(triplet)
            }
            (SimilarityLoss::Cosine, _) => Err("a score, in the column that --label-column names"),
            (SimilarityLoss::Triplet, _) => {
                Err("a third text, in the column that --negative-column names")
            }
        }
    }

    pub(in crate::finetune) fn validate(&self, batch_size: usize) -> Result<(), Fault> {
        for (key, value) in [("similarity.scale", self.scale), ("similarity.margin", self.margin)] {
            if !(value.is_finite() && value > 0.0) {
                return Err((key.into(), format!("{value} is not above 0")));
            }
        }
        if !self.pooling.is_empty() {
            let pooling = self.pooling.parse::<Pooling>();
            pooling.map_err(|error| ("similarity.pooling".into(), error.to_string()))?;
        }
        if self.loss == SimilarityLoss::Ranking && batch_size < 2 {
            let reason = "1 leaves no other text in the batch to rank; raise it".to_owned();
            return Err(("data.batch_size".into(), reason));
        }
        Ok(())
    }
}
