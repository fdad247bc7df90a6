//! `tag`: a class for each word of a text, such as names (NER) or parts of speech.

mod read;

use std::path::Path;

use bert4rs_data::EncodedText;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Reduction, Tensor};
use serde_json::{Value, json};

pub use read::{TaggedText, WordColumns, read_words};

use super::example::{Example, bad_line};
use super::head::TaskModel;
use super::labels::LabelNames;
use super::rows::{Rows, sequence_rows, split_by_counts};
use super::{FinetuneTask, NamedScores};
use crate::batch::NamedTensors;
use crate::error::Result;
use crate::scores::confusion::ConfusionTable;
use crate::scores::entities::EntityScores;

/// The task. A word's first token stands for it, as in transformers' examples.
#[derive(Debug)]
pub struct Tag {
    model: TaskModel,
    columns: WordColumns,
    labels: LabelNames,
    /// Whether tags are of entities, such as `B-PER`.
    has_entities: bool,
}

/// The tag's number of each word; of a text that was cut, of the words before the cut where it is a
/// prediction.
pub type WordTags = Vec<usize>;

impl Tag {
    /// The task of a model whose head has an output for each of `labels`.
    pub fn new(model: TaskModel, columns: WordColumns, labels: LabelNames) -> Self {
        let is_entity = |name: &String| {
            let prefix = name.split_once('-').map(|(prefix, _)| prefix);
            name == "O" || matches!(prefix, Some("B" | "I" | "E" | "S" | "L" | "U"))
        };
        let names = labels.names();
        let has_entities = names.len() > 1 && names.iter().all(is_entity);
        Self { model, columns, labels, has_entities }
    }

    /// Examples of what was read.
    ///
    /// # Errors
    /// Tags that the task does not have, with their line.
    pub fn examples(&self, path: &Path, texts: Vec<TaggedText>) -> Result<Vec<Example<WordTags>>> {
        let words: Vec<&[String]> = texts.iter().map(|text| &text.words[..]).collect();
        let encoded = self.model.tokenizer.encode_words(&words)?;
        let number = |line: u64, name: &String| {
            self.labels.number(name).ok_or_else(|| {
                let known = self.labels.list();
                bad_line(path, line, format!("has the tag {name:?}, which is none of {known}"))
            })
        };
        let example = |(text, tokens): (TaggedText, EncodedText)| {
            let label = match &text.tags {
                Some(tags) => {
                    let lines = tags.iter().zip(&text.lines);
                    let numbers = lines.map(|(name, &line)| number(line, name));
                    Some(numbers.collect::<Result<WordTags>>()?)
                }
                None => None,
            };
            let (line, source) = (text.line, json!({ "tokens": text.words }));
            Ok(Example { line, part: 0, source, text: tokens, others: Vec::new(), label })
        };
        texts.into_iter().zip(encoded).map(example).collect()
    }

    /// Logits `[m, c]` of the words' first tokens.
    fn logits(&self, batch: &NamedTensors, train: bool) -> Result<Tensor> {
        let rows = sequence_rows(batch)?;
        let logits = self.model.model.token_logits(&rows, train)?;
        Ok(logits.index_select(0, batch.get("words")?).to_kind(Kind::Float))
    }

    fn loss_of(&self, logits_mc: &Tensor, labels_m: &Tensor) -> Result<Tensor> {
        let all = None::<Tensor>;
        let sum = logits_mc.f_cross_entropy_loss(labels_m, all, Reduction::Sum, -100, 0.0);
        Ok(sum.during("loss of tags")?)
    }

    /// The predicted tags' names, one for each word: those that were cut off count as none.
    fn names(&self, tags: &[usize], words: usize) -> Vec<&str> {
        let none = self.labels.number("O").unwrap_or_default();
        let padded = tags.iter().copied().chain(std::iter::repeat(none));
        padded.take(words).map(|tag| self.labels.name(tag)).collect()
    }

    fn table(&self, pairs: &[(&WordTags, &WordTags)]) -> ConfusionTable {
        let none = self.labels.number("O").unwrap_or_default();
        let words = pairs.iter().flat_map(|(right, said)| {
            let said = said.iter().copied().chain(std::iter::repeat(none));
            right.iter().copied().zip(said)
        });
        ConfusionTable::new(self.labels.len(), words)
    }

    fn entities(&self, pairs: &[(&WordTags, &WordTags)]) -> EntityScores {
        let mut scores = EntityScores::default();
        for (right, said) in pairs {
            let words = right.len();
            scores.add(&self.names(right, words), &self.names(said, words));
        }
        scores
    }
}

/// The places of the words' first tokens.
fn word_starts(text: &EncodedText) -> impl Iterator<Item = usize> {
    let starts = |&at: &usize| {
        let word = text.words[at];
        word.is_some() && (at == 0 || text.words[at - 1] != word)
    };
    (0..text.words.len()).filter(starts)
}

impl FinetuneTask for Tag {
    type Label = WordTags;
    type Prediction = WordTags;

    fn name(&self) -> &'static str {
        "tag"
    }

    fn read(&self, path: &Path, labelled: bool) -> Result<Vec<Example<WordTags>>> {
        self.examples(path, read_words(path, &self.columns, labelled)?)
    }

    fn model(&self) -> &TaskModel {
        &self.model
    }

    fn model_mut(&mut self) -> &mut TaskModel {
        &mut self.model
    }

    fn tensors(
        &self,
        examples: &[&Example<WordTags>],
        rows: &Rows,
    ) -> Result<(Vec<(&'static str, Tensor)>, u64)> {
        let (mut words, mut labels, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (example, first) in examples.iter().zip(&rows.first) {
            let before = words.len();
            words.extend(word_starts(&example.text).map(|at| first + at as i64));
            counts.push((words.len() - before) as i64);
            if let Some(tags) = &example.label {
                let seen = tags.iter().take(words.len() - before);
                labels.extend(seen.map(|&tag| tag as i64));
            }
        }
        let mut tensors = vec![
            ("words", Tensor::from_slice(&words)),
            ("word_counts", Tensor::from_slice(&counts)),
        ];
        if labels.len() < words.len() {
            return Ok((tensors, 0));
        }
        tensors.push(("labels", Tensor::from_slice(&labels)));
        Ok((tensors, labels.len() as u64))
    }

    fn loss(&self, batch: &NamedTensors) -> Result<Tensor> {
        self.loss_of(&self.logits(batch, true)?, batch.get("labels")?)
    }

    fn predict(&self, batch: &NamedTensors) -> Result<(Vec<WordTags>, Option<Tensor>)> {
        let logits_mc = self.logits(batch, false)?;
        let loss = match batch.find("labels") {
            Some(labels) => Some(self.loss_of(&logits_mc, labels)?),
            None => None,
        };
        let read = |tensor: &Tensor| {
            Vec::<i64>::try_from(tensor.to_device(Device::Cpu)).during("read predictions")
        };
        let tags = read(&logits_mc.argmax(-1, false))?;
        let of_texts = split_by_counts(&tags, &read(batch.get("word_counts")?)?);
        let numbers = |tags: &[i64]| tags.iter().map(|&tag| tag as usize).collect();
        Ok((of_texts.into_iter().map(numbers).collect(), loss))
    }

    fn scores(&self, pairs: &[(&WordTags, &WordTags)]) -> NamedScores {
        let table = self.table(pairs);
        let mut scores = vec![("accuracy".to_owned(), table.accuracy())];
        if self.has_entities {
            let all = self.entities(pairs);
            let overall = all.overall();
            scores.extend([
                ("f1".to_owned(), overall.f1()),
                ("precision".to_owned(), overall.precision()),
                ("recall".to_owned(), overall.recall()),
                ("f1_macro".to_owned(), all.f1_macro()),
            ]);
        } else {
            scores.push(("f1_macro".to_owned(), table.f1_macro()));
        }
        scores
    }

    fn main_score(&self) -> &'static str {
        if self.has_entities { "f1" } else { "accuracy" }
    }

    fn details(&self, pairs: &[(&WordTags, &WordTags)]) -> Vec<String> {
        if !self.has_entities {
            return Vec::new();
        }
        let mut lines = vec!["entity: precision, recall, F1, examples".to_owned()];
        for (kind, counts) in self.entities(pairs).by_kind() {
            lines.push(format!(
                "  {kind}: {:.4}, {:.4}, {:.4}, {}",
                counts.precision(),
                counts.recall(),
                counts.f1(),
                counts.support()
            ));
        }
        lines
    }

    fn balance(&self, labels: &[&WordTags]) -> Vec<String> {
        let mut counts = vec![0usize; self.labels.len()];
        labels.iter().for_each(|tags| tags.iter().for_each(|&tag| counts[tag] += 1));
        let all: usize = counts.iter().sum();
        let line = |(at, count): (usize, &usize)| {
            let share = 100.0 * *count as f64 / all.max(1) as f64;
            format!("{at} = {}: {count} words ({share:.1}%)", self.labels.name(at))
        };
        counts.iter().enumerate().map(line).collect()
    }

    fn label_text(&self, label: &WordTags) -> String {
        self.names(label, label.len()).join(" ")
    }

    fn prediction_json(&self, prediction: &WordTags) -> Value {
        json!({ "tags": self.names(prediction, prediction.len()) })
    }
}
