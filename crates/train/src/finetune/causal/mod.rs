//! `causal`: a GPT goes on learning to predict the next token, of texts, or of completions alone,
//! after prompts that are given.

mod read;

use std::path::Path;

use bert4rs_data::EncodedText;
use bert4rs_models::loss::LossOptions;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Reduction, Tensor};
use serde_json::{Value, json};

pub use read::{CompletionColumns, PromptedText, read_prompted};

use super::example::{Example, bad_line};
use super::head::TaskModel;
use super::rows::{Rows, sequence_rows, split_by_counts};
use super::{FinetuneTask, NamedScores};
use crate::batch::NamedTensors;
use crate::error::Result;
use crate::scores::perplexity;

/// The task. A text ends with the tokenizer's end-of-text token, which is learned too.
#[derive(Debug)]
pub struct CausalCompletion {
    model: TaskModel,
    columns: CompletionColumns,
    /// What is learned by; what is measured is the plain loss.
    loss: LossOptions,
}

/// Where in an example's tokens what is to be learned begins: after the prompt, and never with the
/// first token, which nothing predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletionStart(pub usize);

/// How probable the model finds what was to be learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompletionLoss {
    /// The sum of the tokens' losses, in nats.
    pub loss: f64,
    /// Tokens.
    pub tokens: usize,
}

impl CausalCompletion {
    /// The task of a model with a head for the next token.
    pub fn new(model: TaskModel, columns: CompletionColumns) -> Self {
        Self { model, columns, loss: LossOptions::default() }
    }

    /// The task, learned by this loss.
    pub fn with_loss(self, loss: LossOptions) -> Self {
        Self { loss, ..self }
    }

    fn example(&self, path: &Path, text: &PromptedText) -> Result<Example<CompletionStart>> {
        let tokenizer = self.model.tokenizer.tokenizer();
        let mut ids = match text.prompt.as_str() {
            "" => Vec::new(),
            prompt => tokenizer.encode(prompt)?,
        };
        let start = ids.len().max(1);
        ids.extend(tokenizer.encode(&text.completion)?);
        ids.extend(tokenizer.names().eos.as_ref().and_then(|end| tokenizer.id(end)));
        let longest = self.model.longest;
        let is_cut = ids.len() > longest;
        ids.truncate(longest);
        if ids.len() <= start {
            let reason = format!(
                "has a prompt of {start} tokens, which leaves none of {longest} to learn; raise \
                 --max-length, or shorten it"
            );
            return Err(bad_line(path, text.line, reason));
        }
        let count = ids.len();
        let tokens = EncodedText { ids, types: vec![0; count], words: vec![None; count], is_cut };
        let label = Some(CompletionStart(start));
        Ok(Example {
            line: text.line,
            part: 0,
            source: text.source(),
            text: tokens,
            others: Vec::new(),
            label,
        })
    }

    /// The loss of each token that counts, `[m]` in FP32, without dropout.
    fn losses(&self, batch: &NamedTensors) -> Result<Tensor> {
        let rows = sequence_rows(batch)?;
        let before = batch.get("before")?;
        let logits_mv = self.model.model.next_token_logits(&rows, before, false)?;
        let (logits_mv, all) = (logits_mv.to_kind(Kind::Float), None::<Tensor>);
        let labels_m = batch.get("labels")?;
        let losses = logits_mv.f_cross_entropy_loss(labels_m, all, Reduction::None, -100, 0.0);
        Ok(losses.during("loss of completions")?)
    }
}

impl FinetuneTask for CausalCompletion {
    type Label = CompletionStart;
    type Prediction = CompletionLoss;

    fn name(&self) -> &'static str {
        "causal"
    }

    /// What is learned is the text itself, so that there is no file without labels.
    fn read(&self, path: &Path, _: bool) -> Result<Vec<Example<CompletionStart>>> {
        let rows = read_prompted(path, &self.columns)?;
        rows.iter().map(|text| self.example(path, text)).collect()
    }

    fn model(&self) -> &TaskModel {
        &self.model
    }

    fn model_mut(&mut self) -> &mut TaskModel {
        &mut self.model
    }

    fn tensors(
        &self,
        examples: &[&Example<CompletionStart>],
        rows: &Rows,
    ) -> Result<(Vec<(&'static str, Tensor)>, u64)> {
        let (mut before, mut labels, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (example, first) in examples.iter().zip(&rows.first) {
            let start = example.label.map_or(1, |label| label.0);
            let ids = &example.text.ids;
            let learned = start..ids.len();
            counts.push(learned.len() as i64);
            before.extend(learned.clone().map(|at| first + at as i64 - 1));
            labels.extend(learned.map(|at| i64::from(ids[at])));
        }
        let count = labels.len() as u64;
        let tensors = vec![
            ("before", Tensor::from_slice(&before)),
            ("labels", Tensor::from_slice(&labels)),
            ("label_counts", Tensor::from_slice(&counts)),
        ];
        Ok((tensors, count))
    }

    fn loss(&self, batch: &NamedTensors) -> Result<Tensor> {
        let rows = sequence_rows(batch)?;
        let places = (batch.get("before")?, batch.get("labels")?);
        Ok(self.model.model.next_token_loss(&rows, places, &self.loss, true)?)
    }

    fn predict(&self, batch: &NamedTensors) -> Result<(Vec<CompletionLoss>, Option<Tensor>)> {
        let losses_m = self.losses(batch)?;
        let values = Vec::<f32>::try_from(losses_m.to_device(Device::Cpu));
        let values = values.during("read losses")?;
        let counts = Vec::<i64>::try_from(batch.get("label_counts")?.to_device(Device::Cpu));
        let summed = |losses: &[f32]| CompletionLoss {
            loss: losses.iter().map(|&loss| f64::from(loss)).sum(),
            tokens: losses.len(),
        };
        let of_texts = split_by_counts(&values, &counts.during("read counts")?);
        let predictions = of_texts.into_iter().map(summed).collect();
        Ok((predictions, Some(losses_m.sum(Kind::Float))))
    }

    fn scores(&self, pairs: &[(&CompletionStart, &CompletionLoss)]) -> NamedScores {
        let loss: f64 = pairs.iter().map(|(_, said)| said.loss).sum();
        let tokens: usize = pairs.iter().map(|(_, said)| said.tokens).sum();
        let mean = loss / tokens.max(1) as f64;
        vec![("log_likelihood".into(), -mean), ("perplexity".into(), perplexity(mean))]
    }

    fn main_score(&self) -> &'static str {
        "log_likelihood"
    }

    fn balance(&self, labels: &[&CompletionStart]) -> Vec<String> {
        let prompted = labels.iter().filter(|label| label.0 > 1).count();
        vec![format!("{prompted} of {} examples have a prompt, which is not learned", labels.len())]
    }

    fn label_text(&self, label: &CompletionStart) -> String {
        format!("all from token {} on", label.0 + 1)
    }

    fn prediction_json(&self, prediction: &CompletionLoss) -> Value {
        let mean = prediction.loss / prediction.tokens.max(1) as f64;
        json!({ "log_likelihood": -prediction.loss, "tokens": prediction.tokens,
                "perplexity": perplexity(mean) })
    }
}
