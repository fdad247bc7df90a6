//! `rank`: how relevant a text is for a query, by a cross-encoder that reads both together
//! (arXiv 1901.04085).

mod groups;
mod read;

use std::collections::HashMap;
use std::path::Path;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Reduction, Tensor};
use serde_json::{Value, json};

pub use read::{RankedText, RelevanceColumns, read_ranked};

use super::example::{Example, bad_line, encode};
use super::head::TaskModel;
use super::rows::{Rows, sequence_rows};
use super::{FinetuneTask, NamedScores};
use crate::batch::NamedTensors;
use crate::error::Result;
use crate::scores::ranking;
use groups::by_query;

/// How many of a query's texts are looked at.
const CUTOFF: usize = 10;

/// What sentence-transformers makes of an output, by the name of torch's class in `config.json`.
const SIGMOID: &str = "torch.nn.modules.activation.Sigmoid";

/// The task.
#[derive(Debug)]
pub struct Rank {
    model: TaskModel,
    columns: RelevanceColumns,
    /// What relevance in tables is divided by, of what is to be learned.
    learned: Option<f64>,
    /// Whether scores lie between 0 and 1.
    is_share: bool,
}

/// How relevant a text is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Relevance {
    /// The number of its query in the file.
    pub query: usize,
    /// Whether it is the first of its query.
    pub first: bool,
    /// 0 or more.
    pub value: f64,
}

/// What the model says of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankPrediction {
    /// How relevant it is; higher is more.
    pub score: f64,
    /// Its place among the texts of its query, from 1.
    pub rank: usize,
}

impl Rank {
    /// The task of a model with one output for a sequence.
    pub fn new(model: TaskModel, columns: RelevanceColumns, is_share: bool) -> Self {
        Self { model, columns, learned: None, is_share }
    }

    /// The same to be trained, with relevance that is divided by `scale`.
    pub fn to_learn(self, scale: f64) -> Self {
        Self { learned: Some(scale), ..self }
    }

    /// What `config.json` says of a model's output: that it is to become a share.
    pub fn settings() -> Vec<(&'static str, Value)> {
        vec![
            ("sentence_transformers", json!({ "activation_fn": SIGMOID })),
            ("sbert_ce_default_activation_function", Value::Null),
            ("problem_type", Value::Null),
        ]
    }

    /// Whether `config`, a `config.json`, is of a model that ranks, and if so, whether its scores
    /// are shares.
    pub fn of_config(config: &Value) -> Option<bool> {
        let now = &config["sentence_transformers"]["activation_fn"];
        let said = now.as_str().or(config["sbert_ce_default_activation_function"].as_str())?;
        Some(said == SIGMOID)
    }

    /// Examples of what was read.
    ///
    /// # Errors
    /// A relevance that is no share, of those that are to be learned.
    pub fn examples(&self, path: &Path, rows: Vec<RankedText>) -> Result<Vec<Example<Relevance>>> {
        let scale = self.learned.unwrap_or(1.0);
        let mut queries = HashMap::new();
        let texts = rows.iter().map(|row| (row.line, row.query.clone(), Some(row.text.clone())));
        let encoded = encode(&self.model.tokenizer, path, &texts.collect::<Vec<_>>())?;
        let mut examples = Vec::with_capacity(rows.len());
        for (row, text) in rows.into_iter().zip(encoded) {
            let value = row.relevance.map(|relevance| relevance / scale);
            if self.learned.is_some() && value.is_some_and(|value| value > 1.0) {
                let reason = format!(
                    "has the relevance {}, expected at most 1: divide by the greatest with \
                     --score-scale",
                    row.relevance.unwrap_or_default()
                );
                return Err(bad_line(path, row.line, reason));
            }
            let next = queries.len();
            let query = *queries.entry(row.query.clone()).or_insert(next);
            let source = json!({ "query": row.query, "text": row.text });
            let label = value.map(|value| Relevance { query, first: row.first, value });
            let (line, others) = (row.line, Vec::new());
            examples.push(Example { line, part: 0, source, text, others, label });
        }
        Ok(examples)
    }

    /// One for each sequence, `[n]` in FP32.
    fn logits(&self, batch: &NamedTensors, train: bool) -> Result<Tensor> {
        let logits_n1 = self.model.model.sequence_logits(&sequence_rows(batch)?, train)?;
        Ok(logits_n1.f_squeeze_dim(1).during("scores of texts")?.to_kind(Kind::Float))
    }

    /// The sum of binary cross-entropies, as sentence-transformers' `BinaryCrossEntropyLoss`.
    fn loss_of(&self, logits_n: &Tensor, labels_n: &Tensor) -> Result<Tensor> {
        let none = None::<&Tensor>;
        let sum = logits_n.f_binary_cross_entropy_with_logits(labels_n, none, none, Reduction::Sum);
        Ok(sum.during("loss of relevance")?)
    }
}

impl FinetuneTask for Rank {
    type Label = Relevance;
    type Prediction = RankPrediction;

    fn name(&self) -> &'static str {
        "rank"
    }

    fn read(&self, path: &Path, labelled: bool) -> Result<Vec<Example<Relevance>>> {
        self.examples(path, read_ranked(path, &self.columns, labelled)?)
    }

    fn model(&self) -> &TaskModel {
        &self.model
    }

    fn model_mut(&mut self) -> &mut TaskModel {
        &mut self.model
    }

    fn tensors(
        &self,
        examples: &[&Example<Relevance>],
        _: &Rows,
    ) -> Result<(Vec<(&'static str, Tensor)>, u64)> {
        let share = |label: Relevance| (label.value <= 1.0).then_some(label.value as f32);
        let shares: Option<Vec<f32>> =
            examples.iter().map(|example| example.label.and_then(share)).collect();
        let count = shares.as_ref().map_or(0, |shares| shares.len() as u64);
        let tensors = shares.map(|shares| ("labels", Tensor::from_slice(&shares)));
        Ok((tensors.into_iter().collect(), count))
    }

    fn loss(&self, batch: &NamedTensors) -> Result<Tensor> {
        self.loss_of(&self.logits(batch, true)?, batch.get("labels")?)
    }

    fn predict(&self, batch: &NamedTensors) -> Result<(Vec<RankPrediction>, Option<Tensor>)> {
        let logits_n = self.logits(batch, false)?;
        let loss = match batch.find("labels") {
            Some(labels_n) => Some(self.loss_of(&logits_n, labels_n)?),
            None => None,
        };
        let scores_n = if self.is_share { logits_n.sigmoid() } else { logits_n };
        let scores = Vec::<f32>::try_from(scores_n.to_device(Device::Cpu)).during("read scores")?;
        let prediction = |score: f32| RankPrediction { score: score.into(), rank: 0 };
        Ok((scores.into_iter().map(prediction).collect(), loss))
    }

    fn compares_examples(&self) -> bool {
        true
    }

    fn settle(
        &self,
        examples: &[Example<Relevance>],
        predictions: &mut [RankPrediction],
    ) -> Result<()> {
        let mut of_queries: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, example) in examples.iter().enumerate() {
            let query = example.source["query"].as_str().unwrap_or_default();
            of_queries.entry(query).or_default().push(at);
        }
        for mut texts in of_queries.into_values() {
            texts.sort_by(|&one, &other| {
                predictions[other].score.total_cmp(&predictions[one].score)
            });
            for (place, at) in texts.into_iter().enumerate() {
                predictions[at].rank = place + 1;
            }
        }
        Ok(())
    }

    fn group(&self, label: &Relevance) -> Option<usize> {
        Some(label.query)
    }

    fn scores(&self, pairs: &[(&Relevance, &RankPrediction)]) -> NamedScores {
        let (mut ranks, mut gains, mut queries) = (0.0, 0.0, 0.0);
        for (scores, relevance) in by_query(pairs) {
            if relevance.iter().all(|&value| value == 0.0) {
                continue;
            }
            let relevant: Vec<bool> = relevance.iter().map(|&value| value > 0.0).collect();
            ranks += ranking::reciprocal_rank(&scores, &relevant, CUTOFF);
            gains += ranking::ndcg(&scores, &relevance, CUTOFF);
            queries += 1.0;
        }
        let mean = |sum: f64| if queries > 0.0 { sum / queries } else { f64::NAN };
        vec![(format!("ndcg_at_{CUTOFF}"), mean(gains)), (format!("mrr_at_{CUTOFF}"), mean(ranks))]
    }

    fn main_score(&self) -> &'static str {
        "ndcg_at_10"
    }

    fn details(&self, pairs: &[(&Relevance, &RankPrediction)]) -> Vec<String> {
        let queries = by_query(pairs);
        let none = queries.iter().filter(|(_, found)| found.iter().all(|&value| value == 0.0));
        let (none, all) = (none.count(), queries.len());
        vec![format!("{all} queries; {none} have no relevant text and are left out of the scores")]
    }

    fn balance(&self, labels: &[&Relevance]) -> Vec<String> {
        let relevant = labels.iter().filter(|label| label.value > 0.0).count();
        let queries = labels.iter().filter(|label| label.first).count();
        let share = 100.0 * relevant as f64 / labels.len().max(1) as f64;
        vec![format!(
            "{queries} queries with {:.1} texts on average, of which {share:.1}% are relevant",
            labels.len() as f64 / queries.max(1) as f64
        )]
    }

    fn label_text(&self, label: &Relevance) -> String {
        label.value.to_string()
    }

    fn prediction_json(&self, prediction: &RankPrediction) -> Value {
        json!({ "score": prediction.score, "rank": prediction.rank })
    }
}
