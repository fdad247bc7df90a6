//! What each task makes of a configuration: its model, its labels, its examples.

use std::path::Path;

use bert4rs_models::embedding::SentenceModules;
use bert4rs_models::hugging_face::{Folder, HeadKind};
use bert4rs_models::pretrained::LoadOptions;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::policy::Policy;

use serde_json::Value;

use super::FinetuneTask;
use super::answer::{Answer, Question, THRESHOLD_KEY, read_questions};
use super::causal::CausalCompletion;
use super::classify::{ClassLabel, ClassProblem, Classify, read_texts, settle};
use super::config::{ClassWeights, FinetuneConfig};
use super::example::{Example, bad_file, bad_line};
use super::head::{HeadRequest, TaskModel};
use super::labels::LabelNames;
use super::rank::{Rank, read_ranked};
use super::run::{FinetuneSummary, Run, Surroundings};
use super::seq2seq::{PREFIX_KEY, Seq2Seq, read_sources};
use super::similarity::{
    ComparedTexts, ComparisonForm, Similarity, SimilarityObjective, open_encoder, read_compared,
};
use super::tag::{Tag, read_words};
use crate::distributed::Ranks;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::run::Start as Place;

/// What a run begins with.
pub(super) struct Start<'a> {
    pub(super) config: &'a FinetuneConfig,
    pub(super) ranks: &'a Ranks,
    /// Where the process that leads writes; the others write nothing.
    pub(super) place: Option<Place>,
    pub(super) surroundings: Surroundings<'a>,
    pub(super) machine: Machine,
    pub(super) policy: Policy,
}

impl Start<'_> {
    /// The model that the task asks for.
    fn model(&self, request: &HeadRequest, params: ParamStore) -> Result<TaskModel> {
        let config = self.config;
        let dropouts = config.model.dropouts();
        let sizes = (params, config.task.max_length);
        let (folder, attention) = (&config.task.model, config.compute.attention);
        self.prepared(TaskModel::load(folder, request, dropouts, attention, sizes)?)
    }

    /// The model as it is to be trained: with adapters and activation checkpointing.
    fn prepared(&self, mut model: TaskModel) -> Result<TaskModel> {
        model.adapt(&self.config.lora)?;
        let checkpointing = self.config.compute.activation_checkpointing;
        model.model.set_activation_checkpointing(checkpointing);
        Ok(model)
    }

    /// The folder's classes where it has all of `found`, else `found`.
    fn labels(&self, found: LabelNames, head: HeadKind) -> Result<LabelNames> {
        let folder = Folder::open(&self.config.task.model)?;
        let has_head = folder.architecture().is_ok_and(|found| found.head() == head);
        let had = LabelNames::of_config(folder.raw_config());
        Ok(had.filter(|had| has_head && had.include(&found)).unwrap_or(found))
    }
}

pub(super) fn classify(start: Start, params: ParamStore) -> Result<Option<FinetuneSummary>> {
    let (config, path) = (start.config, &start.config.task.train);
    let columns = config.columns.of_texts();
    let texts = read_texts(path, &columns, true)?;
    let (problem, labels) = settle(path, &texts, &columns, config.task.problem.said())?;
    if problem != ClassProblem::Regression && labels.len() < 2 {
        let reason = format!("has one label, {}: there is nothing to learn", labels.list());
        return Err(bad_file(path, reason));
    }
    let head = HeadKind::SequenceClassification;
    let labels = match problem {
        ClassProblem::Regression => labels,
        _ => start.labels(labels, head)?,
    };
    let settings = vec![("problem_type", problem.type_name().into())];
    let request = HeadRequest { head, labels: Some(labels.clone()), settings };
    let model = start.model(&request, params)?;
    let classes = labels.len();
    let mut task = Classify::new(model, columns, problem, labels);
    let examples = task.examples(path, texts)?;
    if config.task.class_weights == ClassWeights::Balanced {
        let weights = balanced(&examples, classes);
        task = task.with_weights(&weights, start.machine.device);
    }
    task.model_mut().notes.insert(0, format!("problem    {}", problem.type_name()));
    Run::new(start, task).train(examples)
}

/// The weight of each class, by the inverse of its share; 1 on average over the examples.
fn balanced(examples: &[Example<ClassLabel>], classes: usize) -> Vec<f64> {
    let mut counts = vec![0usize; classes];
    for label in examples.iter().filter_map(|example| example.label.as_ref()) {
        match label {
            ClassLabel::Class(class) => counts[*class] += 1,
            ClassLabel::Classes(flags) => {
                flags.iter().zip(&mut counts).for_each(|(&flag, n)| *n += usize::from(flag));
            }
            ClassLabel::Number(_) => {}
        }
    }
    let present = counts.iter().filter(|&&count| count > 0).count() as f64;
    let all: usize = counts.iter().sum();
    let weight = |&count: &usize| match count {
        0 => 1.0,
        count => all as f64 / (present * count as f64),
    };
    counts.iter().map(weight).collect()
}

pub(super) fn tag(start: Start, params: ParamStore) -> Result<Option<FinetuneSummary>> {
    let (config, path) = (start.config, &start.config.task.train);
    let columns = config.columns.of_words();
    let texts = read_words(path, &columns, true)?;
    let tags = texts.iter().flat_map(|text| text.tags.iter().flatten());
    let found = LabelNames::of(tags.map(String::as_str));
    let head = HeadKind::TokenClassification;
    let labels = start.labels(found, head)?;
    let settings = vec![("problem_type", Value::Null)];
    let request = HeadRequest { head, labels: Some(labels.clone()), settings };
    let task = Tag::new(start.model(&request, params)?, columns, labels);
    let examples = task.examples(path, texts)?;
    Run::new(start, task).train(examples)
}

pub(super) fn answer(start: Start, params: ParamStore) -> Result<Option<FinetuneSummary>> {
    let config = start.config;
    let (path, options) = (&config.task.train, config.answer.clone());
    let questions = read_questions(path, true)?;
    let has_none = |one: &Question| one.answers.as_ref().is_some_and(Vec::is_empty);
    let without = questions.iter().filter(|one| has_none(one)).count();
    if without == questions.len() {
        return Err(bad_file(path, "has no question with an answer: there is nothing to learn"));
    }
    let (may_be_none, threshold) = (without > 0, options.no_answer_threshold);
    if !may_be_none && threshold != 0.0 {
        let reason = format!("all questions in {} have answers; leave it out", path.display());
        let key = format!("answer.{THRESHOLD_KEY}");
        return Err(Error::Config { origin: "configuration".into(), key, reason });
    }
    // Another head's, if the folder has one; two outputs are this head's default.
    let others = ["id2label", "label2id", "num_labels", "problem_type"];
    let mut settings: Vec<_> = others.into_iter().map(|key| (key, Value::Null)).collect();
    settings.push((THRESHOLD_KEY, may_be_none.then_some(threshold).into()));
    let head = HeadKind::QuestionAnswering;
    let model = start.model(&HeadRequest { head, labels: None, settings }, params)?;
    let task = Answer::new(model, options, may_be_none)?;
    let examples = task.examples(path, questions)?;
    Run::new(start, task).train(examples)
}

pub(super) fn seq2seq(start: Start, params: ParamStore) -> Result<Option<FinetuneSummary>> {
    let config = start.config;
    let (path, columns) = (&config.task.train, config.columns.of_sources());
    let texts = read_sources(path, &columns, true)?;
    let options = config.seq2seq.clone();
    let prefix = Some(options.prefix.as_str()).filter(|prefix| !prefix.is_empty());
    let settings = vec![(PREFIX_KEY, prefix.into())];
    let head = HeadKind::ConditionalGeneration;
    let model = start.model(&HeadRequest { head, labels: None, settings }, params)?;
    let task = Seq2Seq::new(model, columns, options)?.with_loss(config.loss);
    let examples = task.examples(path, texts)?;
    Run::new(start, task).train(examples)
}

pub(super) fn causal(start: Start, params: ParamStore) -> Result<Option<FinetuneSummary>> {
    let config = start.config;
    let model = start.model(&HeadRequest::without_classes(HeadKind::CausalLm), params)?;
    let task = CausalCompletion::new(model, config.columns.of_completions()).with_loss(config.loss);
    let examples = task.read(&config.task.train, true)?;
    Run::new(start, task).train(examples)
}

pub(super) fn similarity(start: Start, params: ParamStore) -> Result<Option<FinetuneSummary>> {
    let (config, path) = (start.config, &start.config.task.train);
    let columns = config.columns.of_comparisons();
    let (form, rows) = read_compared(path, &columns, true)?;
    let objective = config.similarity.objective(form).map_err(|lacking| {
        bad_file(path, format!("lacks what similarity.loss needs: {lacking}"))
    })?;
    let (form, rows, note) = match (objective, form) {
        (SimilarityObjective::Ranking { .. }, ComparisonForm::Scored) => together(path, rows)?,
        _ => (form, rows, None),
    };
    let measured = match &config.task.validation {
        held if held.as_os_str().is_empty() => form,
        held => read_compared(held, &columns, true)?.0,
    };
    let attention = config.compute.attention;
    let options = LoadOptions { device: params.device(), kind: params.kind(), attention };
    let mut modules = SentenceModules::read(&config.task.model, options)?;
    if !config.similarity.pooling.is_empty() {
        modules.set_pooling(config.similarity.pooling.parse()?);
    }
    let open = |folder: &Path, longest| {
        let request = HeadRequest::without_classes(HeadKind::Base);
        let dropouts = config.model.dropouts();
        start.prepared(TaskModel::load(folder, &request, dropouts, attention, (params, longest))?)
    };
    let model = open_encoder(&modules, config.task.max_length, open)?;
    let fixed = modules.dense_folders().map(|path| {
        format!("fixed      {} stays as it is: maps after the pooling don't learn", path.display())
    });
    let more: Vec<String> = fixed.chain(note).collect();
    let (scale, at_once) = (config.task.score_scale, config.similarity.encode_at_once);
    let mut task =
        Similarity::new(model, modules, columns, measured).to_learn(objective, scale, at_once);
    let examples = task.examples(path, &rows, form, true)?;
    task.model_mut().notes.extend(more);
    Run::new(start, task).train(examples)
}

pub(super) fn rank(start: Start, params: ParamStore) -> Result<Option<FinetuneSummary>> {
    let (config, path) = (start.config, &start.config.task.train);
    let columns = config.columns.of_relevance();
    let rows = read_ranked(path, &columns, true)?;
    let labels = Some(LabelNames::new(vec!["LABEL_0".into()]));
    let head = HeadKind::SequenceClassification;
    let request = HeadRequest { head, labels, settings: Rank::settings() };
    let model = start.model(&request, params)?;
    let task = Rank::new(model, columns, true).to_learn(config.task.score_scale);
    let examples = task.examples(path, rows)?;
    Run::new(start, task).train(examples)
}

type Compared = (ComparisonForm, Vec<ComparedTexts>, Option<String>);

/// Of pairs with labels 0 or 1, those that belong together.
fn together(path: &Path, rows: Vec<ComparedTexts>) -> Result<Compared> {
    let is_label = |row: &&ComparedTexts| row.score == Some(0.0) || row.score == Some(1.0);
    if let Some(row) = rows.iter().find(|row| !is_label(row)) {
        let found = row.score.unwrap_or_default();
        let reason =
            format!("has the label {found}; to rank, 1 is a pair that belongs together, 0 none");
        return Err(bad_line(path, row.line, reason));
    }
    let all = rows.len();
    let kept = rows.into_iter().filter(|row| row.score == Some(1.0));
    let kept: Vec<_> = kept.map(|row| ComparedTexts { score: None, ..row }).collect();
    if kept.is_empty() {
        return Err(bad_file(path, "has no pair with the label 1: there is nothing to rank"));
    }
    let note = format!("not used   {} of {all} pairs, whose label is 0", all - kept.len());
    Ok((ComparisonForm::Paired, kept, Some(note)))
}
