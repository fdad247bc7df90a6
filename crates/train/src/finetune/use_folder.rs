//! A trained model's folder on a file: what it says of each example, and what that is worth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bert4rs_data::Layout;
use bert4rs_models::embedding::SentenceModules;
use bert4rs_models::hugging_face::HeadKind;
use bert4rs_models::pretrained::{LoadOptions, Model};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind};
use serde_json::{Value, json};

use super::FinetuneTask;
use super::answer::{Answer, AnswerOptions, THRESHOLD_KEY};
use super::causal::{CausalCompletion, CompletionColumns};
use super::classify::{ClassProblem, Classify, TextColumns};
use super::example::{Example, bad_file};
use super::head::{Dropouts, HeadRequest, TaskModel};
use super::labels::LabelNames;
use super::measure::{pairs, predict};
use super::rank::{Rank, RelevanceColumns};
use super::seq2seq::{PREFIX_KEY, Seq2Seq, SourceColumns, WritingOptions, generation_keys};
use super::similarity::{ComparisonColumns, ComparisonForm, Similarity, open_encoder};
use super::tag::{Tag, WordColumns};
use crate::error::{Error, Result};
use crate::scores::bootstrap::{self, ScoreInterval};

/// Which model on which file, and how.
#[derive(Debug, Clone)]
pub struct FolderUse {
    /// The model's folder.
    pub model: PathBuf,
    /// The file.
    pub data: PathBuf,
    /// Columns of tables.
    pub texts: TextColumns,
    /// Columns of words.
    pub words: WordColumns,
    /// Columns of prompts and completions.
    pub completions: CompletionColumns,
    /// How questions are answered.
    pub answers: AnswerUse,
    /// How texts are written.
    pub writing: WritingUse,
    /// Columns of texts that are compared.
    pub compared: ComparisonColumns,
    /// Columns of queries and texts.
    pub ranked: RelevanceColumns,
    /// The most tokens of a text; 0 means what the model has positions for.
    pub max_length: usize,
    /// Examples at once.
    pub batch_size: usize,
    /// Where.
    pub device: Device,
    /// Dtype of weights and activations.
    pub kind: Kind,
    /// Which code computes attention.
    pub attention: AttentionImplementation,
}

/// How a model answers questions.
#[derive(Debug, Clone, Copy)]
pub struct AnswerUse {
    /// As [`AnswerOptions::stride`].
    pub stride: usize,
    /// As [`AnswerOptions::longest`].
    pub longest: usize,
    /// As [`AnswerOptions::no_answer_threshold`]; if absent, that of the model's folder, and
    /// without one there is always an answer.
    pub no_answer_threshold: Option<f64>,
    /// Answers that are listed for each question.
    pub listed: usize,
}

impl AnswerUse {
    /// The task of `model`, of whose folder this is the configuration.
    fn task(self, model: TaskModel, config: &Value) -> Result<Answer> {
        let threshold = self.no_answer_threshold.or_else(|| config[THRESHOLD_KEY].as_f64());
        let (stride, longest) = (self.stride, self.longest);
        let no_answer_threshold = threshold.unwrap_or_default();
        let options = AnswerOptions { stride, longest, no_answer_threshold };
        Ok(Answer::new(model, options, threshold.is_some())?.listing(self.listed))
    }
}

/// How a model reads texts and writes others; what is absent, the model's folder says.
#[derive(Debug, Clone)]
pub struct WritingUse {
    /// Columns of tables.
    pub columns: SourceColumns,
    /// As [`WritingOptions::prefix`].
    pub prefix: Option<String>,
    /// As [`WritingOptions::max_target_length`].
    pub max_target_length: Option<usize>,
    /// As [`WritingOptions::beams`].
    pub beams: Option<usize>,
}

impl WritingUse {
    /// The task of `model`, of whose folder `config` is the configuration.
    fn task(&self, model: TaskModel, folder: &Path, config: &Value) -> Result<Seq2Seq> {
        let (keys, default) = (generation_keys(folder)?, WritingOptions::default());
        let number = |key: &str| keys[key].as_u64().map(|number| number as usize);
        let prefix = self.prefix.as_deref().or(config[PREFIX_KEY].as_str()).unwrap_or_default();
        let longest = self.max_target_length.or(number("max_new_tokens"));
        let options = WritingOptions {
            prefix: prefix.to_owned(),
            max_target_length: longest.unwrap_or(default.max_target_length),
            beams: self.beams.or(number("num_beams")).unwrap_or(default.beams),
            length_penalty: keys["length_penalty"].as_f64().unwrap_or(default.length_penalty),
            best_by: default.best_by,
        };
        Seq2Seq::new(model, self.columns.clone(), options)
    }
}

/// Examples that are predicted before any is written: enough for batches of like length, and no
/// more memory for a long file.
const WINDOW: usize = 64;

/// How many samples intervals are made of.
const SAMPLES: usize = 1000;

/// What `evaluate` tells.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderScores {
    /// Examples.
    pub examples: usize,
    /// Each score, and where it lies with other examples in 95 of 100 cases.
    pub scores: Vec<(String, f64, Option<ScoreInterval>)>,
    /// The mean loss.
    pub loss: Option<f64>,
    /// A confusion table, or scores by entity.
    pub details: Vec<String>,
}

/// What is done with a task, whichever it is.
trait Visitor {
    type Output;
    fn visit<T: FinetuneTask>(self, task: &T, how: &FolderUse) -> Result<Self::Output>;
}

/// Makes the task that the folder's model is for.
fn open<V: Visitor>(how: &FolderUse, visitor: V) -> Result<V::Output> {
    if SentenceModules::are_in(&how.model)? {
        return visitor.visit(&similarity(how)?, how);
    }
    let sizes = (how.device, how.kind, how.max_length);
    let (model, folder) = TaskModel::open(&how.model, how.attention, sizes)?;
    let config = folder.raw_config();
    let outputs = config["id2label"].as_object().map(serde_json::Map::len);
    let outputs = outputs.or_else(|| config["num_labels"].as_u64().map(|count| count as usize));
    let outputs = outputs.unwrap_or(2);
    let unnamed = || LabelNames::new((0..outputs).map(|at| format!("LABEL_{at}")).collect());
    let labels = LabelNames::of_config(config).unwrap_or_else(unnamed);
    let is_share = Rank::of_config(config).filter(|_| outputs == 1);
    match (model.model.model(), is_share) {
        (Model::Classes(..) | Model::GptClasses(..) | Model::T5Classes(..), Some(is_share)) => {
            visitor.visit(&Rank::new(model, how.ranked.clone(), is_share), how)
        }
        (
            Model::Classes(_, problem)
            | Model::GptClasses(_, problem)
            | Model::T5Classes(_, problem),
            _,
        ) => {
            let problem = ClassProblem::of(*problem, outputs);
            visitor.visit(&Classify::new(model, how.texts.clone(), problem, labels), how)
        }
        (Model::T5(_), _) => visitor.visit(&how.writing.task(model, &how.model, config)?, how),
        (Model::Answers(_), _) => visitor.visit(&how.answers.task(model, config)?, how),
        (Model::Gpt(_), _) => {
            visitor.visit(&CausalCompletion::new(model, how.completions.clone()), how)
        }
        (Model::TokenClasses(_), _) => {
            visitor.visit(&Tag::new(model, how.words.clone(), labels), how)
        }
        _ => {
            let class = model.model.architecture();
            let reason = format!(
                "is a {class}, which has no head for a task; fine-tune it with bert4rs finetune"
            );
            Err(bad_file(&how.model, reason))
        }
    }
}

/// The task of a folder of sentence-transformers.
fn similarity(how: &FolderUse) -> Result<Similarity> {
    let options = LoadOptions { device: how.device, kind: how.kind, attention: how.attention };
    let modules = SentenceModules::read(&how.model, options)?;
    let model = open_encoder(&modules, how.max_length, |folder, longest| {
        let sizes = (ParamStore::new(how.device, how.kind), longest);
        let request = HeadRequest::without_classes(HeadKind::Base);
        TaskModel::load(folder, &request, Dropouts::default(), how.attention, sizes)
    })?;
    Ok(Similarity::new(model, modules, how.compared.clone(), ComparisonForm::Scored))
}

struct Predict<'a>(&'a mut dyn FnMut(Value) -> Result<()>);

impl Visitor for Predict<'_> {
    type Output = usize;

    fn visit<T: FinetuneTask>(self, task: &T, how: &FolderUse) -> Result<usize> {
        let examples = task.read(&how.data, false)?;
        let batch = (how.batch_size, Layout::Packed, how.device);
        let (mut rest, mut count) = (&examples[..], 0);
        while !rest.is_empty() {
            let about = if task.compares_examples() { rest.len() } else { WINDOW * how.batch_size };
            let (these, later) = rest.split_at(end_of_whole(rest, about));
            rest = later;
            let found = predict(task, these, batch)?;
            count += found.all.len();
            let firsts = these.iter().filter(|example| example.part == 0);
            for (example, prediction) in firsts.zip(&found.all) {
                (self.0)(object(example, task.prediction_json(prediction)))?;
            }
        }
        Ok(count)
    }
}

/// Where the first `about` examples end, with all parts of the last one's text.
fn end_of_whole<L>(examples: &[Example<L>], about: usize) -> usize {
    let rest = examples.iter().skip(about).position(|example| example.part == 0);
    rest.map_or(examples.len(), |more| about + more)
}

/// What was read and what the model says of it, in one object.
fn object<L>(example: &Example<L>, prediction: Value) -> Value {
    let mut object = json!({ "line": example.line });
    for part in [&example.source, &prediction] {
        if let (Some(object), Some(part)) = (object.as_object_mut(), part.as_object()) {
            object.extend(part.clone());
        }
    }
    object
}

struct Evaluate;

impl Visitor for Evaluate {
    type Output = FolderScores;

    fn visit<T: FinetuneTask>(self, task: &T, how: &FolderUse) -> Result<FolderScores> {
        let examples = task.read(&how.data, true)?;
        let found = predict(task, &examples, (how.batch_size, Layout::Packed, how.device))?;
        let pairs = pairs::<T>(&examples, &found.all);
        let scores = task.scores(&pairs);
        let mut drawn: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let names: Vec<&str> = scores.iter().map(|(name, _)| name.as_str()).collect();
        let groups = groups(task, &pairs);
        bootstrap::samples(groups.len(), SAMPLES, 1, |chosen| {
            let members = chosen.iter().flat_map(|&group| &groups[group]);
            let sample: Vec<_> = members.map(|&at| pairs[at]).collect();
            for (name, value) in task.scores(&sample) {
                if let Some(&known) = names.iter().find(|known| **known == name) {
                    drawn.entry(known).or_default().push(value);
                }
            }
        });
        let intervals: Vec<Option<ScoreInterval>> = names
            .iter()
            .map(|name| drawn.get(name).and_then(|values| bootstrap::middle(values.clone())))
            .collect();
        let scored = scores.iter().zip(intervals);
        Ok(FolderScores {
            examples: found.all.len(),
            scores: scored.map(|((name, value), at)| (name.clone(), *value, at)).collect(),
            loss: found.loss,
            details: task.details(&pairs),
        })
    }
}

/// The numbers of those that are scored together: each alone, unless the task says otherwise.
fn groups<T: FinetuneTask>(task: &T, pairs: &[(&T::Label, &T::Prediction)]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, (label, _)) in pairs.iter().enumerate() {
        groups.entry(task.group(label).unwrap_or(at)).or_default().push(at);
    }
    groups.into_values().collect()
}

/// Tells `write` what the model says of each example, in the file's order; how many there are.
///
/// # Errors
/// A folder that is for no task, a file that can't be used, and what `write` refuses.
pub fn predict_file(how: &FolderUse, write: &mut dyn FnMut(Value) -> Result<()>) -> Result<usize> {
    check(how)?;
    open(how, Predict(write))
}

/// Scores the model on a labelled file.
///
/// # Errors
/// As [`predict_file`]; labels that the model does not have.
pub fn evaluate_file(how: &FolderUse) -> Result<FolderScores> {
    check(how)?;
    open(how, Evaluate)
}

fn check(how: &FolderUse) -> Result<()> {
    let is_file = |path: &Path| path.is_file() || !path.exists();
    if how.batch_size > 0 && is_file(&how.data) {
        return Ok(());
    }
    let (key, reason) = match how.batch_size {
        0 => ("--batch-size", "0 is below 1"),
        _ => ("--data", "is a folder; give a file"),
    };
    Err(Error::Config { origin: "command line".into(), key: key.into(), reason: reason.into() })
}
