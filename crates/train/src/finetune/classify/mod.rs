//! `classify`: a class, any number of classes, or a number, for a text or a pair of texts.

mod problem;
mod read;

use std::path::Path;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Reduction, Tensor};
use serde_json::{Value, json};

pub use problem::{ClassLabel, ClassPrediction, ClassProblem, settle};
pub use read::{LabelledText, TextColumns, read_texts};

use super::example::{Example, encode};
use super::head::TaskModel;
use super::labels::LabelNames;
use super::rows::{Rows, sequence_rows};
use super::{FinetuneTask, NamedScores};
use crate::batch::NamedTensors;
use crate::error::Result;

/// The task.
#[derive(Debug)]
pub struct Classify {
    model: TaskModel,
    columns: TextColumns,
    problem: ClassProblem,
    labels: LabelNames,
    /// Of each class, in FP32 on the model's device; absent where all count alike.
    weights: Option<Tensor>,
}

impl Classify {
    /// The task of a model whose head has an output for each of `labels`, or one for a number.
    pub fn new(
        model: TaskModel,
        columns: TextColumns,
        problem: ClassProblem,
        labels: LabelNames,
    ) -> Self {
        Self { model, columns, problem, labels, weights: None }
    }

    /// Lets classes count by `weights`, whose mean over the examples should be 1.
    pub fn with_weights(mut self, weights: &[f64], device: Device) -> Self {
        let weights: Vec<f32> = weights.iter().map(|&weight| weight as f32).collect();
        self.weights = Some(Tensor::from_slice(&weights).to_device(device));
        self
    }

    /// What is learned.
    pub fn problem(&self) -> ClassProblem {
        self.problem
    }

    /// Examples of what was read.
    ///
    /// # Errors
    /// Labels that the task does not have, with their line.
    pub fn examples(
        &self,
        path: &Path,
        texts: Vec<LabelledText>,
    ) -> Result<Vec<Example<ClassLabel>>> {
        let labels = texts
            .iter()
            .map(|text| {
                let Some(value) = &text.label else { return Ok(None) };
                self.problem.label(path, text.line, value, &self.labels, &self.columns).map(Some)
            })
            .collect::<Result<Vec<_>>>()?;
        let pairs: Vec<_> =
            texts.into_iter().map(|text| (text.line, text.first, text.second)).collect();
        let encoded = encode(&self.model.tokenizer, path, &pairs)?;
        let examples = pairs.into_iter().zip(encoded).zip(labels);
        let example = |(((line, first, second), text), label)| {
            let source = match second {
                Some(second) => json!({ "text": first, "text_pair": second }),
                None => json!({ "text": first }),
            };
            Example { line, part: 0, source, text, others: Vec::new(), label }
        };
        Ok(examples.map(example).collect())
    }

    /// Losses of logits `[n, c]`, summed.
    fn loss_of(&self, logits_nc: &Tensor, batch: &NamedTensors) -> Result<Tensor> {
        let labels = batch.get("labels")?;
        let sum = match self.problem {
            ClassProblem::SingleLabel => {
                let all = self.weights.as_ref();
                logits_nc.f_cross_entropy_loss(labels, all, Reduction::Sum, -100, 0.0)
            }
            ClassProblem::MultiLabel => {
                // The mean over classes, as transformers has it.
                let of_all = logits_nc.f_binary_cross_entropy_with_logits::<&Tensor>(
                    labels,
                    self.weights.as_ref(),
                    None,
                    Reduction::Sum,
                );
                of_all.map(|sum| sum / self.labels.len() as f64)
            }
            ClassProblem::Regression => logits_nc.squeeze_dim(1).f_mse_loss(labels, Reduction::Sum),
        };
        Ok(sum.during("loss of classes")?)
    }

    fn logits(&self, batch: &NamedTensors, train: bool) -> Result<Tensor> {
        let rows = sequence_rows(batch)?;
        Ok(self.model.model.sequence_logits(&rows, train)?.to_kind(Kind::Float))
    }
}

impl FinetuneTask for Classify {
    type Label = ClassLabel;
    type Prediction = ClassPrediction;

    fn name(&self) -> &'static str {
        "classify"
    }

    fn read(&self, path: &Path, labelled: bool) -> Result<Vec<Example<ClassLabel>>> {
        self.examples(path, read_texts(path, &self.columns, labelled)?)
    }

    fn model(&self) -> &TaskModel {
        &self.model
    }

    fn model_mut(&mut self) -> &mut TaskModel {
        &mut self.model
    }

    fn tensors(
        &self,
        examples: &[&Example<ClassLabel>],
        _: &Rows,
    ) -> Result<(Vec<(&'static str, Tensor)>, u64)> {
        let labels: Option<Vec<&ClassLabel>> =
            examples.iter().map(|example| example.label.as_ref()).collect();
        let Some(labels) = labels else { return Ok((Vec::new(), 0)) };
        let tensor = self.problem.tensor(&labels, self.labels.len());
        Ok((vec![("labels", tensor)], labels.len() as u64))
    }

    fn loss(&self, batch: &NamedTensors) -> Result<Tensor> {
        self.loss_of(&self.logits(batch, true)?, batch)
    }

    fn predict(&self, batch: &NamedTensors) -> Result<(Vec<ClassPrediction>, Option<Tensor>)> {
        let logits_nc = self.logits(batch, false)?;
        let loss = match batch.find("labels") {
            Some(_) => Some(self.loss_of(&logits_nc, batch)?),
            None => None,
        };
        let shares_nc = match self.problem {
            ClassProblem::SingleLabel => logits_nc.softmax(-1, Kind::Float),
            ClassProblem::MultiLabel => logits_nc.sigmoid(),
            ClassProblem::Regression => logits_nc,
        };
        let classes = shares_nc.size()[1].max(1) as usize;
        let values = Vec::<f32>::try_from(shares_nc.to_device(Device::Cpu).flatten(0, 1))
            .during("read predictions")?;
        let predictions =
            values.chunks(classes).map(|values| self.problem.prediction(values)).collect();
        Ok((predictions, loss))
    }

    fn scores(&self, pairs: &[(&ClassLabel, &ClassPrediction)]) -> NamedScores {
        self.problem.scores(pairs, self.labels.len())
    }

    fn main_score(&self) -> &'static str {
        self.problem.main_score()
    }

    fn details(&self, pairs: &[(&ClassLabel, &ClassPrediction)]) -> Vec<String> {
        self.problem.details(pairs, &self.labels)
    }

    fn balance(&self, labels: &[&ClassLabel]) -> Vec<String> {
        self.problem.balance(labels, &self.labels)
    }

    fn label_text(&self, label: &ClassLabel) -> String {
        self.problem.label_text(label, &self.labels)
    }

    fn prediction_json(&self, prediction: &ClassPrediction) -> Value {
        let named = || {
            let shares = prediction.values.iter().enumerate();
            shares.map(|(at, share)| (self.labels.name(at).to_owned(), json!(share)))
        };
        match self.problem {
            ClassProblem::Regression => json!({ "value": prediction.values[0] }),
            ClassProblem::SingleLabel => json!({
                "label": self.labels.name(prediction.best()),
                "score": prediction.values[prediction.best()],
                "scores": named().collect::<serde_json::Map<_, _>>(),
            }),
            ClassProblem::MultiLabel => {
                let chosen = prediction.chosen();
                let names: Vec<&str> = (0..chosen.len())
                    .filter(|&at| chosen[at])
                    .map(|at| self.labels.name(at))
                    .collect();
                json!({ "labels": names, "scores": named().collect::<serde_json::Map<_, _>>() })
            }
        }
    }
}
