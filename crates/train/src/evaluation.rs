//! How good a model is on text that it does not learn from.

use std::collections::BTreeMap;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::no_grad;

use crate::error::Result;
use crate::loader::Loader;
use crate::task::Task;

/// Held-out batches, always the same.
pub struct Validation {
    loader: Box<dyn Loader>,
    batches: u64,
}

/// Means over the labels of held-out batches.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Steps trained before.
    pub step: u64,
    /// Labels that the means are over.
    pub labels: u64,
    /// What [`Task::evaluate`] names, in nats where it is a loss.
    pub means: BTreeMap<String, f64>,
}

impl Evaluation {
    /// The mean loss, if the task measures one.
    pub fn loss(&self) -> Option<f64> {
        self.means.get("loss").copied()
    }
}

impl Validation {
    /// The first `batches` batches of `loader`.
    pub fn new(loader: Box<dyn Loader>, batches: u64) -> Self {
        Self { loader, batches }
    }

    /// Measures `task` after `step` steps; nothing where there are no batches. Draws no random
    /// numbers, so that training goes on as it would without.
    ///
    /// # Errors
    /// What making a batch can meet, and what libtorch throws.
    pub(crate) fn run(&mut self, task: &dyn Task, step: u64) -> Result<Option<Evaluation>> {
        let mut evaluation = Evaluation { step, labels: 0, means: BTreeMap::new() };
        self.loader.seek(0)?;
        for _ in 0..self.batches {
            let batch = self.loader.next()?;
            for (name, sum) in no_grad(|| task.evaluate(&batch.tensors))? {
                let sum = sum.f_double_value(&[]).during("read a metric")?;
                *evaluation.means.entry(name.to_owned()).or_default() += sum;
            }
            evaluation.labels += batch.size.labels;
        }
        evaluation.means.values_mut().for_each(|sum| *sum /= evaluation.labels as f64);
        Ok((evaluation.labels > 0).then_some(evaluation))
    }
}
