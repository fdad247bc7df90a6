//! `similarity`: vectors of texts that are near where texts mean the same, by a bi-encoder
//! (Sentence-BERT, arXiv 1908.10084).
//!
//! Axes: `n` examples, `k` texts of one, `d` features.

mod config;
mod grad_cache;
mod objective;
mod parts;
mod read;
mod retrieval;

use std::path::Path;

use bert4rs_models::embedding::SentenceModules;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, Tensor};
use serde_json::{Value, json};

pub use config::{SimilarityConfig, SimilarityLoss};
pub use objective::SimilarityObjective;
pub use read::{ComparedTexts, ComparisonColumns, ComparisonForm, read_compared};

use super::example::{Example, bad_file, bad_line, encode};
use super::head::TaskModel;
use super::rows::{Rows, sequence_rows};
use super::{FinetuneTask, NamedScores};
use crate::batch::NamedTensors;
use crate::error::Result;
use crate::scores::correlation;
use parts::TextParts;

/// The task.
#[derive(Debug)]
pub struct Similarity {
    model: TaskModel,
    modules: SentenceModules,
    columns: ComparisonColumns,
    /// What is learned; absent where a model is used alone.
    learned: Option<SimilarityTraining>,
    /// What is measured.
    measured: ComparisonForm,
}

/// What is learned, and how.
#[derive(Debug)]
struct SimilarityTraining {
    objective: SimilarityObjective,
    /// What scores in tables are divided by.
    score_scale: f64,
    /// Texts that are encoded at once; 0 means all of a batch.
    encode_at_once: usize,
    /// The parameters whose gradients are asked for.
    weights: Vec<Tensor>,
}

/// What is known of the texts of one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ComparisonLabel {
    /// How alike two texts are.
    Score(f64),
    /// Two texts belong together.
    Together,
    /// The second text is nearer than the third.
    Nearer,
}

/// What the model says of one example.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparisonPrediction {
    /// The cosine of the first two texts' vectors.
    pub similarity: f64,
    /// That of the first and the third.
    pub negative: Option<f64>,
    /// The second text's rank among those of all examples, from 1, of texts that belong together.
    pub rank: Option<usize>,
    /// Both vectors, until ranks are known.
    vectors: Option<[Vec<f32>; 2]>,
}

impl Similarity {
    /// The task of an encoder and what is above it, measured on a file of the form `measured`.
    pub fn new(
        model: TaskModel,
        modules: SentenceModules,
        columns: ComparisonColumns,
        measured: ComparisonForm,
    ) -> Self {
        Self { model, modules, columns, learned: None, measured }
    }

    /// The same to be trained, before its parameters are taken: with this loss, for scores that
    /// are divided by `score_scale`, `encode_at_once` texts at once (0: all of a batch).
    pub fn to_learn(
        mut self,
        objective: SimilarityObjective,
        score_scale: f64,
        encode_at_once: usize,
    ) -> Self {
        let weights = |params: &ParamStore| {
            let all = params.params();
            let trained = all.iter().filter(|param| param.weight.requires_grad());
            trained.map(|param| param.weight.shallow_clone()).collect()
        };
        let weights = weights(self.model.model.params());
        self.learned = Some(SimilarityTraining { objective, score_scale, encode_at_once, weights });
        self
    }

    /// Examples of what was read, in which scores are divided as they are to be learned.
    ///
    /// # Errors
    /// Scores that no cosine reaches, of those that are to be learned.
    pub fn examples(
        &self,
        path: &Path,
        rows: &[ComparedTexts],
        form: ComparisonForm,
        labelled: bool,
    ) -> Result<Vec<Example<ComparisonLabel>>> {
        let scale = self.learned.as_ref().map_or(1.0, |learned| learned.score_scale);
        let objective = self.learned.as_ref().map(|learned| learned.objective);
        let texts = |row: &ComparedTexts| {
            let texts = row.texts.iter().cloned();
            texts.map(|text| (row.line, self.modules.text(text), None)).collect::<Vec<_>>()
        };
        let texts: Vec<_> = rows.iter().flat_map(texts).collect();
        let mut encoded = encode(&self.model.tokenizer, path, &texts)?.into_iter();
        let mut examples = Vec::with_capacity(rows.len());
        for row in rows {
            let score = row.score.map(|score| score / scale);
            if let Some(score) = score
                && objective == Some(SimilarityObjective::Cosine)
                && score.abs() > 1.0
            {
                let reason = format!(
                    "has the score {}, and cosines lie between -1 and 1: divide scores by the \
                     greatest with --score-scale",
                    row.score.unwrap_or_default()
                );
                return Err(bad_line(path, row.line, reason));
            }
            let label = match (form, score) {
                (ComparisonForm::Scored, Some(score)) => ComparisonLabel::Score(score),
                (ComparisonForm::Triplets, _) => ComparisonLabel::Nearer,
                _ => ComparisonLabel::Together,
            };
            let mut texts = encoded.by_ref().take(row.texts.len());
            let Some(text) = texts.next() else { break };
            let (line, source, others) = (row.line, row.source(), texts.collect());
            let label = labelled.then_some(label);
            examples.push(Example { line, part: 0, source, text, others, label });
        }
        Ok(examples)
    }

    /// Vectors `[n, k, d]` in FP32 from those of all texts, `[n·k, d]`.
    fn by_example(vectors: &Tensor, batch: &NamedTensors) -> Result<Tensor> {
        let each = batch.get("texts_each")?.f_int64_value(&[]).during("count texts")?;
        let features = vectors.size()[1];
        Ok(vectors.f_view([-1, each, features]).during("vectors of examples")?)
    }

    fn vectors(&self, batch: &NamedTensors, train: bool) -> Result<Tensor> {
        let rows = sequence_rows(batch)?;
        let vectors = self.modules.vectors_of_rows(&self.model.model, &rows, train)?;
        Self::by_example(&vectors, batch)
    }
}

impl FinetuneTask for Similarity {
    type Label = ComparisonLabel;
    type Prediction = ComparisonPrediction;

    fn name(&self) -> &'static str {
        "similarity"
    }

    fn read(&self, path: &Path, labelled: bool) -> Result<Vec<Example<ComparisonLabel>>> {
        let (form, rows) = read_compared(path, &self.columns, labelled)?;
        self.examples(path, &rows, form, labelled)
    }

    fn model(&self) -> &TaskModel {
        &self.model
    }

    fn model_mut(&mut self) -> &mut TaskModel {
        &mut self.model
    }

    fn tensors(
        &self,
        examples: &[&Example<ComparisonLabel>],
        _: &Rows,
    ) -> Result<(Vec<(&'static str, Tensor)>, u64)> {
        let each = examples.first().map_or(1, |example| 1 + example.others.len() as i64);
        let mut tensors = vec![("texts_each", Tensor::from(each))];
        let all = |wanted: fn(&ComparisonLabel) -> Option<f32>| -> Option<Vec<f32>> {
            examples.iter().map(|example| wanted(example.label.as_ref()?)).collect()
        };
        let scores = all(|label| match label {
            ComparisonLabel::Score(score) => Some(*score as f32),
            _ => None,
        });
        let together = all(|label| (*label == ComparisonLabel::Together).then_some(1.0));
        let is_scored = scores.is_some();
        tensors.extend(scores.map(|scores| ("scores", Tensor::from_slice(&scores))));
        tensors.extend(together.map(|flags| ("together", Tensor::from_slice(&flags))));
        let learned = self.learned.as_ref().filter(|learned| {
            let labelled = examples.iter().all(|example| example.label.is_some());
            labelled && learned.objective.fits(each, is_scored)
        });
        Ok((tensors, learned.map_or(0, |_| examples.len() as u64)))
    }

    fn loss(&self, batch: &NamedTensors) -> Result<Tensor> {
        let Some(learned) = &self.learned else { return Ok(Tensor::from(0f32)) };
        let loss = |vectors_nkd: &Tensor| learned.objective.loss(vectors_nkd, batch.find("scores"));
        let size = learned.encode_at_once;
        let rows = sequence_rows(batch)?;
        if size == 0 || rows.lengths.size()[0] as usize <= size {
            return loss(&self.vectors(batch, true)?);
        }
        let parts = TextParts::new(rows, size)?;
        let encode = |number: usize| {
            let part = parts.part(number);
            Ok(self.modules.vectors_of_rows(&self.model.model, &part.rows(), true)?)
        };
        grad_cache::loss_of_parts(&learned.weights, parts.count(), encode, |vectors| {
            loss(&Self::by_example(vectors, batch)?)
        })
    }

    fn predict(&self, batch: &NamedTensors) -> Result<(Vec<ComparisonPrediction>, Option<Tensor>)> {
        let vectors_nkd = self.vectors(batch, false)?;
        let (each, scores) = (vectors_nkd.size()[1], batch.find("scores"));
        let learned = self.learned.as_ref();
        let loss = match learned.filter(|learned| learned.objective.fits(each, scores.is_some())) {
            Some(learned) => Some(learned.objective.loss(&vectors_nkd, scores)?),
            None => None,
        };
        let cosines = |other: i64| {
            let found = objective::cosines(&vectors_nkd, 0, other);
            let found = found.and_then(|found| Vec::<f32>::try_from(found.to_device(Device::Cpu)));
            found.during("read cosines")
        };
        let near = cosines(1)?;
        let far = if each > 2 { Some(cosines(2)?) } else { None };
        let mut vectors = match batch.find("together") {
            Some(_) => read_vectors(&vectors_nkd)?.into_iter().map(Some).collect(),
            None => vec![None; near.len()],
        };
        let prediction = |(at, &similarity): (usize, &f32)| ComparisonPrediction {
            similarity: similarity.into(),
            negative: far.as_ref().map(|far| far[at].into()),
            rank: None,
            vectors: vectors[at].take(),
        };
        Ok((near.iter().enumerate().map(prediction).collect(), loss))
    }

    fn settle(
        &self,
        _: &[Example<ComparisonLabel>],
        predictions: &mut [ComparisonPrediction],
    ) -> Result<()> {
        let known: Option<Vec<_>> = predictions.iter().map(|said| said.vectors.as_ref()).collect();
        let Some(known) = known.filter(|known| !known.is_empty()) else { return Ok(()) };
        let side = |at: usize| {
            let values = known.iter().flat_map(|vectors| &vectors[at]).copied();
            Tensor::from_slice(&values.collect::<Vec<f32>>()).view([known.len() as i64, -1])
        };
        let ranks = retrieval::ranks(&side(0), &side(1))?;
        for (said, rank) in predictions.iter_mut().zip(ranks) {
            (said.rank, said.vectors) = (Some(rank), None);
        }
        Ok(())
    }

    fn scores(&self, pairs: &[(&ComparisonLabel, &ComparisonPrediction)]) -> NamedScores {
        let said: Vec<f64> = pairs.iter().map(|(_, said)| said.similarity).collect();
        let mean = |value: &dyn Fn(&ComparisonPrediction) -> f64| {
            pairs.iter().map(|(_, said)| value(said)).sum::<f64>() / pairs.len().max(1) as f64
        };
        let scores = match pairs.first().map(|(label, _)| label) {
            Some(ComparisonLabel::Nearer) => {
                let is_right = |said: &ComparisonPrediction| said.negative < Some(said.similarity);
                vec![("accuracy", mean(&|said| f64::from(u8::from(is_right(said)))))]
            }
            Some(ComparisonLabel::Together) => {
                let rank = |said: &ComparisonPrediction| said.rank.unwrap_or(usize::MAX);
                let within = |most: usize| mean(&|said| f64::from(u8::from(rank(said) <= most)));
                vec![
                    ("mrr", mean(&|said| 1.0 / rank(said) as f64)),
                    ("accuracy_at_1", within(1)),
                    ("accuracy_at_10", within(10)),
                ]
            }
            _ => {
                let right = pairs.iter().map(|(label, _)| match label {
                    ComparisonLabel::Score(score) => *score,
                    _ => f64::NAN,
                });
                let right: Vec<f64> = right.collect();
                let or_nan = |found: Option<f64>| found.unwrap_or(f64::NAN);
                vec![
                    ("spearman", or_nan(correlation::spearman(&said, &right))),
                    ("pearson", or_nan(correlation::pearson(&said, &right))),
                ]
            }
        };
        scores.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn main_score(&self) -> &'static str {
        match self.measured {
            ComparisonForm::Scored => "spearman",
            ComparisonForm::Paired => "mrr",
            ComparisonForm::Triplets => "accuracy",
        }
    }

    fn balance(&self, labels: &[&ComparisonLabel]) -> Vec<String> {
        let count = labels.len();
        vec![match labels.first() {
            Some(ComparisonLabel::Nearer) => format!("{count} triplets"),
            Some(ComparisonLabel::Together) => format!("{count} pairs that belong together"),
            _ => {
                let scores = labels.iter().filter_map(|label| match label {
                    ComparisonLabel::Score(score) => Some(*score),
                    _ => None,
                });
                let scores: Vec<f64> = scores.collect();
                let low = scores.iter().copied().fold(f64::INFINITY, f64::min);
                let high = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let mean = scores.iter().sum::<f64>() / count.max(1) as f64;
                format!("{count} pairs with scores from {low} to {high}, {mean:.4} on average")
            }
        }]
    }

    fn label_text(&self, label: &ComparisonLabel) -> String {
        match label {
            ComparisonLabel::Score(score) => score.to_string(),
            ComparisonLabel::Together => "belong together".into(),
            ComparisonLabel::Nearer => "the second is nearer than the third".into(),
        }
    }

    fn prediction_json(&self, prediction: &ComparisonPrediction) -> Value {
        let mut object = json!({ "similarity": prediction.similarity });
        if let Some(negative) = prediction.negative {
            object["negative_similarity"] = json!(negative);
        }
        object
    }

    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        self.model.export(folder, params)?;
        let features = self.model.model.features().unwrap_or_default();
        Ok(self.modules.save(folder, features, self.model.longest)?)
    }
}

/// The encoder below `modules`, which `open` reads from its folder for texts of so many tokens: as
/// many as `longest` says, or, where that is 0, as the folder does.
///
/// # Errors
/// A folder whose texts have a prompt before them, and what `open` returns.
pub fn open_encoder(
    modules: &SentenceModules,
    longest: usize,
    open: impl FnOnce(&Path, usize) -> Result<TaskModel>,
) -> Result<TaskModel> {
    let folder = modules.folder();
    if let Some(prompt) = modules.default_prompt() {
        let reason = format!(
            "puts the prompt {prompt:?} before texts by default_prompt_name, which is not done \
             here; take it out, and write prompts into the texts"
        );
        return Err(bad_file(&folder.join("config_sentence_transformers.json"), reason));
    }
    let said = if longest > 0 { longest } else { modules.max_tokens().unwrap_or(0) };
    open(&folder.join(modules.transformer()), said)
}

/// The first two vectors of each example.
fn read_vectors(vectors_nkd: &Tensor) -> Result<Vec<[Vec<f32>; 2]>> {
    let side = |at: i64| -> Result<Vec<Vec<f32>>> {
        let side_nd = vectors_nkd.select(1, at).to_device(Device::Cpu).to_kind(Kind::Float);
        let features = side_nd.size()[1].max(1) as usize;
        let values = Vec::<f32>::try_from(side_nd.flatten(0, 1)).during("read vectors")?;
        Ok(values.chunks(features).map(<[f32]>::to_vec).collect())
    };
    Ok(side(0)?.into_iter().zip(side(1)?).map(|(first, second)| [first, second]).collect())
}
