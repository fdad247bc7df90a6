//! Predictions on a file's examples, and what they are worth.

use std::rc::Rc;

use bert4rs_data::Layout;
use bert4rs_tensor_core::Device;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::no_grad;

use super::example::{Example, wholes};
use super::loader::{BatchOptions, collate};
use super::{FinetuneTask, NamedScores};
use crate::distributed::{MeteredGroup, share_scores};
use crate::error::Result;
use crate::evaluation::{Evaluation, Measure};
use crate::task::Task;

/// Predictions in the examples' order.
#[derive(Debug, Clone)]
pub struct Predictions<P> {
    /// One for each text, of which an example may be a part.
    pub all: Vec<P>,
    /// The mean loss of a label, where the examples have labels.
    pub loss: Option<f64>,
    /// Positions that the model computed, padding included.
    pub positions: u64,
    /// Tokens of the examples.
    pub tokens: u64,
}

/// What `task` says of `examples`, computed `batch_size` at once, those of like length together.
///
/// # Errors
/// What libtorch throws.
pub fn predict<T: FinetuneTask>(
    task: &T,
    examples: &[Example<T::Label>],
    (batch_size, layout, device): (usize, Layout, Device),
) -> Result<Predictions<T::Prediction>> {
    let options = BatchOptions { batch_size, layout, group_by_length: false, device };
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(examples[at].tokens()));
    let mut found: Vec<Option<T::Prediction>> = vec![None; examples.len()];
    let (mut loss, mut labels, mut positions, mut tokens) = (0.0, 0, 0, 0);
    for chosen in order.chunks(batch_size.max(1)) {
        let chosen_examples: Vec<_> = chosen.iter().map(|&at| &examples[at]).collect();
        let batch = collate(task, &chosen_examples, options)?;
        let (predictions, sum) = no_grad(|| task.predict(&batch.tensors))?;
        for (&at, prediction) in chosen.iter().zip(predictions) {
            found[at] = Some(prediction);
        }
        if let Some(sum) = sum {
            loss += sum.f_double_value(&[]).during("read a loss")?;
            labels += batch.size.labels;
        }
        positions += batch.size.positions;
        tokens += batch.size.tokens;
    }
    let loss = (labels > 0).then(|| loss / labels as f64);
    let mut said = found.into_iter().flatten();
    let mut all: Vec<T::Prediction> = wholes(examples)
        .filter_map(|parts| task.finish(parts, said.by_ref().take(parts.len()).collect()))
        .collect();
    task.settle(examples, &mut all)?;
    Ok(Predictions { all, loss, positions, tokens })
}

/// The scores of predictions, of examples that have labels.
pub fn scores<T: FinetuneTask>(
    task: &T,
    examples: &[Example<T::Label>],
    predictions: &[T::Prediction],
) -> NamedScores {
    task.scores(&pairs::<T>(examples, predictions))
}

/// Labels with predictions, of examples that have labels.
pub fn pairs<'a, T: FinetuneTask>(
    examples: &'a [Example<T::Label>],
    predictions: &'a [T::Prediction],
) -> Vec<(&'a T::Label, &'a T::Prediction)> {
    let firsts = examples.iter().filter(|example| example.part == 0);
    let pairs = firsts.zip(predictions);
    pairs.filter_map(|(example, said)| Some((example.label.as_ref()?, said))).collect()
}

/// Validation of a run: loss and scores of held-out examples.
pub struct ScoreMeasure<T: FinetuneTask> {
    /// What is measured.
    pub task: Rc<T>,
    /// On what.
    pub examples: Rc<[Example<T::Label>]>,
    /// Examples at once.
    pub batch_size: usize,
    /// How they lie in rows.
    pub layout: Layout,
    /// Where.
    pub device: Device,
}

impl<T: FinetuneTask> Measure for ScoreMeasure<T> {
    /// Each rank measures all, and all take the scores of the first.
    fn measure(
        &mut self,
        _: &dyn Task,
        step: u64,
        group: &MeteredGroup,
    ) -> Result<Option<Evaluation>> {
        let how = (self.batch_size, self.layout, self.device);
        let found = predict(&*self.task, &self.examples, how)?;
        let mut means: std::collections::BTreeMap<_, _> =
            scores(&*self.task, &self.examples, &found.all).into_iter().collect();
        means.extend(found.loss.map(|loss| ("loss".to_owned(), loss)));
        let labels = found.all.len() as u64;
        Ok(Some(Evaluation { step, labels, means: share_scores(group, means)? }))
    }
}
