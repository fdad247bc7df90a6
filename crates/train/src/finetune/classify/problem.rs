//! What a label is: a class, any number of classes, or a number; and what predictions of it are
//! worth.

use std::path::Path;

use bert4rs_models::pretrained::Problem;
use bert4rs_tensor_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::read::{LabelledText, TextColumns};
use crate::error::Result;
use crate::finetune::NamedScores;
use crate::finetune::example::{bad_line, number_of as read_number};
use crate::finetune::labels::LabelNames;
use crate::scores::confusion::ConfusionTable;
use crate::scores::multi_label::MultiLabelCounts;
use crate::scores::{auc, correlation};

/// What is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassProblem {
    /// One class, with cross-entropy.
    SingleLabel,
    /// Any number of classes, with a binary cross-entropy for each.
    MultiLabel,
    /// A number, with the squared distance.
    Regression,
}

/// What is to be learned of an example.
#[derive(Debug, Clone, PartialEq)]
pub enum ClassLabel {
    /// The number of its class.
    Class(usize),
    /// Whether each class is its own.
    Classes(Vec<bool>),
    /// A number.
    Number(f64),
}

/// What the model says: the probability of each class, or a number.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassPrediction {
    /// One for each output.
    pub values: Vec<f32>,
}

impl ClassPrediction {
    /// The most probable class; of several, the first.
    pub fn best(&self) -> usize {
        let mut best = 0;
        for (at, value) in self.values.iter().enumerate() {
            if *value > self.values[best] {
                best = at;
            }
        }
        best
    }

    /// The classes that are more probable than not.
    pub fn chosen(&self) -> Vec<bool> {
        self.values.iter().map(|&share| share > 0.5).collect()
    }
}

/// The names in a label, which may hold several.
fn names(value: &Value, columns: &TextColumns) -> Option<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        Value::String(all) if !columns.label_separator.is_empty() => Some(
            all.split(&columns.label_separator)
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
        ),
        one => Some(vec![text(one)?]),
    }
}

/// What `texts` are to teach, unless `problem` says it, and which classes there are: lists are
/// any number of classes, fractions are numbers, all else is a class.
///
/// # Errors
/// A label that is none of these, with its line.
pub fn settle(
    path: &Path,
    texts: &[LabelledText],
    columns: &TextColumns,
    problem: Option<ClassProblem>,
) -> Result<(ClassProblem, LabelNames)> {
    let values = || texts.iter().filter_map(|text| Some((text.line, text.label.as_ref()?)));
    let is_fraction = |value: &Value| match value {
        Value::Number(number) => number.is_f64(),
        Value::String(text) => text.contains('.'),
        _ => false,
    };
    let problem = problem.unwrap_or_else(|| {
        let separated = !columns.label_separator.is_empty();
        if separated || values().all(|(_, value)| value.is_array()) {
            ClassProblem::MultiLabel
        } else if values().all(|(_, value)| read_number(value).is_some())
            && values().any(|(_, value)| is_fraction(value))
        {
            ClassProblem::Regression
        } else {
            ClassProblem::SingleLabel
        }
    });
    if problem == ClassProblem::Regression {
        return Ok((problem, LabelNames::new(vec!["value".into()])));
    }
    let mut all = Vec::new();
    for (line, value) in values() {
        match names(value, columns) {
            Some(found) => all.extend(found),
            None => return Err(no_label(path, line, value, columns)),
        }
    }
    Ok((problem, LabelNames::of(all.iter().map(String::as_str))))
}

fn no_label(path: &Path, line: u64, value: &Value, columns: &TextColumns) -> crate::Error {
    let reason = format!("has {value} in {:?}, which is no label", columns.label);
    bad_line(path, line, reason)
}

impl ClassProblem {
    /// What a model folder says.
    pub fn of(problem: Problem, outputs: usize) -> Self {
        match problem {
            Problem::Regression => Self::Regression,
            Problem::MultiLabel => Self::MultiLabel,
            Problem::Unsaid if outputs == 1 => Self::Regression,
            Problem::SingleLabel | Problem::Unsaid => Self::SingleLabel,
        }
    }

    /// Its name in `config.json`.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::SingleLabel => "single_label_classification",
            Self::MultiLabel => "multi_label_classification",
            Self::Regression => "regression",
        }
    }

    /// The label that stands in a table.
    ///
    /// # Errors
    /// A value that is no label, or that the head has no output for.
    pub fn label(
        self,
        path: &Path,
        line: u64,
        value: &Value,
        labels: &LabelNames,
        columns: &TextColumns,
    ) -> Result<ClassLabel> {
        if self == Self::Regression {
            let found = read_number(value).map(ClassLabel::Number);
            let reason = || format!("has {value} in {:?}, expected a number", columns.label);
            return found.ok_or_else(|| bad_line(path, line, reason()));
        }
        let Some(found) = names(value, columns) else {
            return Err(no_label(path, line, value, columns));
        };
        let numbers = found
            .iter()
            .map(|name| {
                labels.number(name).ok_or_else(|| {
                    let known = labels.list();
                    let reason = format!("has the label {name:?}, which is none of {known}");
                    bad_line(path, line, reason)
                })
            })
            .collect::<Result<Vec<usize>>>()?;
        match (self, &numbers[..]) {
            (Self::SingleLabel, [class]) => Ok(ClassLabel::Class(*class)),
            (Self::SingleLabel, _) => {
                let reason = format!("has {} labels, expected one", numbers.len());
                Err(bad_line(path, line, reason))
            }
            _ => {
                let mut flags = vec![false; labels.len()];
                numbers.into_iter().for_each(|class| flags[class] = true);
                Ok(ClassLabel::Classes(flags))
            }
        }
    }

    /// Labels as the loss reads them, on the CPU.
    pub(super) fn tensor(self, labels: &[&ClassLabel], classes: usize) -> Tensor {
        match self {
            Self::SingleLabel => {
                let class = |label: &&ClassLabel| match label {
                    ClassLabel::Class(class) => *class as i64,
                    _ => -100,
                };
                Tensor::from_slice(&labels.iter().map(class).collect::<Vec<_>>())
            }
            Self::MultiLabel => {
                let flags = |label: &&ClassLabel| match label {
                    ClassLabel::Classes(flags) => flags.clone(),
                    _ => vec![false; classes],
                };
                let flags = labels.iter().flat_map(flags);
                let flags: Vec<f32> = flags.map(|flag| f32::from(u8::from(flag))).collect();
                Tensor::from_slice(&flags).view([labels.len() as i64, classes as i64])
            }
            Self::Regression => {
                let numbers: Vec<f32> =
                    labels.iter().map(|label| number_of(label) as f32).collect();
                Tensor::from_slice(&numbers)
            }
        }
    }

    /// What the outputs' values for one example mean.
    pub(super) fn prediction(self, values: &[f32]) -> ClassPrediction {
        ClassPrediction { values: values.to_vec() }
    }

    pub(super) fn main_score(self) -> &'static str {
        match self {
            Self::SingleLabel => "accuracy",
            Self::MultiLabel => "f1_micro",
            Self::Regression => "spearman",
        }
    }

    pub(super) fn scores(
        self,
        pairs: &[(&ClassLabel, &ClassPrediction)],
        classes: usize,
    ) -> NamedScores {
        let mut scores = Vec::new();
        let mut add = |name: &str, value: f64| scores.push((name.to_owned(), value));
        match self {
            Self::SingleLabel => {
                let table = table(pairs, classes);
                add("accuracy", table.accuracy());
                add("f1_macro", table.f1_macro());
                add("f1_micro", table.f1_micro());
                add("mcc", table.matthews());
                let shares: Vec<f64> =
                    pairs.iter().flat_map(|(_, said)| &said.values).map(|&x| x.into()).collect();
                let right: Vec<usize> = pairs.iter().map(|(label, _)| class_of(label)).collect();
                auc::of_classes(&shares, classes, &right).into_iter().for_each(|x| add("auc", x));
            }
            Self::MultiLabel => {
                let said: Vec<Vec<bool>> = pairs.iter().map(|(_, said)| said.chosen()).collect();
                let flags = pairs.iter().zip(&said).filter_map(|((label, _), said)| match label {
                    ClassLabel::Classes(flags) => Some((&flags[..], &said[..])),
                    _ => None,
                });
                let counts = MultiLabelCounts::new(classes, flags);
                add("f1_micro", counts.f1_micro());
                add("f1_macro", counts.f1_macro());
                add("exact_match", counts.exact_match());
            }
            Self::Regression => {
                let right: Vec<f64> = pairs.iter().map(|(label, _)| number_of(label)).collect();
                let said: Vec<f64> = pairs.iter().map(|(_, said)| said.values[0].into()).collect();
                add("pearson", correlation::pearson(&said, &right).unwrap_or(f64::NAN));
                add("spearman", correlation::spearman(&said, &right).unwrap_or(f64::NAN));
                add("mse", correlation::mean_squared_error(&said, &right));
            }
        }
        scores
    }

    pub(super) fn details(
        self,
        pairs: &[(&ClassLabel, &ClassPrediction)],
        labels: &LabelNames,
    ) -> Vec<String> {
        const MOST: usize = 30;
        if self != Self::SingleLabel || labels.len() > MOST {
            return Vec::new();
        }
        let table = table(pairs, labels.len());
        let mut lines = vec!["class: precision, recall, F1, examples".to_owned()];
        for (class, name) in labels.names().iter().enumerate() {
            let of = table.of_class(class);
            lines.push(format!(
                "  {name}: {:.4}, {:.4}, {:.4}, {}",
                of.precision, of.recall, of.f1, of.support
            ));
        }
        lines.push("what was right (a row each), and how often each was predicted".to_owned());
        for (right, name) in labels.names().iter().enumerate() {
            let counts = (0..labels.len()).map(|said| format!("{:>7}", table.count(right, said)));
            lines.push(format!("  {}  {name}", counts.collect::<String>()));
        }
        lines
    }

    pub(super) fn balance(self, labels: &[&ClassLabel], names: &LabelNames) -> Vec<String> {
        if self == Self::Regression {
            let numbers: Vec<f64> = labels.iter().map(|label| number_of(label)).collect();
            let (low, high) =
                numbers.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| {
                    (low.min(x), high.max(x))
                });
            let mean = numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
            return vec![format!("numbers from {low} to {high}, {mean:.4} on average")];
        }
        let mut counts = vec![0usize; names.len()];
        for label in labels {
            match label {
                ClassLabel::Class(class) => counts[*class] += 1,
                ClassLabel::Classes(flags) => {
                    flags.iter().zip(&mut counts).for_each(|(&flag, n)| *n += usize::from(flag));
                }
                ClassLabel::Number(_) => {}
            }
        }
        let line = |(at, count): (usize, &usize)| {
            let share = 100.0 * *count as f64 / labels.len().max(1) as f64;
            format!("{at} = {}: {count} ({share:.1}%)", names.name(at))
        };
        counts.iter().enumerate().map(line).collect()
    }

    pub(super) fn label_text(self, label: &ClassLabel, names: &LabelNames) -> String {
        match label {
            ClassLabel::Class(class) => names.name(*class).to_owned(),
            ClassLabel::Classes(flags) => {
                let set = (0..flags.len()).filter(|&at| flags[at]);
                set.map(|at| names.name(at)).collect::<Vec<_>>().join(", ")
            }
            ClassLabel::Number(number) => number.to_string(),
        }
    }
}

fn table(pairs: &[(&ClassLabel, &ClassPrediction)], classes: usize) -> ConfusionTable {
    ConfusionTable::new(classes, pairs.iter().map(|(label, said)| (class_of(label), said.best())))
}

fn class_of(label: &ClassLabel) -> usize {
    match label {
        ClassLabel::Class(class) => *class,
        _ => usize::MAX,
    }
}

fn number_of(label: &ClassLabel) -> f64 {
    match label {
        ClassLabel::Number(number) => *number,
        _ => f64::NAN,
    }
}
