//! How good a model is on text that it does not learn from.

use std::collections::BTreeMap;

use bert4rs_tensor_core::distributed::ProcessGroup;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::no_grad;

use crate::distributed::{MeteredGroup, sum_over_ranks};
use crate::error::Result;
use crate::loader::Loader;
use crate::task::Task;

/// The exponential of the mean loss.
const PERPLEXITY: &str = "perplexity";

/// A way to measure the model while it is trained.
pub trait Measure {
    /// Measures `task` after `step` steps; nothing where there is nothing to be measured on. Draws
    /// no random numbers, so that training goes on as it would without. All ranks of `group` are
    /// given the same values.
    ///
    /// # Errors
    /// What making a batch can meet, what libtorch throws, and those of the group.
    fn measure(
        &mut self,
        task: &dyn Task,
        step: u64,
        group: &MeteredGroup,
    ) -> Result<Option<Evaluation>>;

    /// Leaves to each rank its part. Unless implemented, every rank measures all.
    ///
    /// # Errors
    /// Those of [`Loader::divide`].
    fn divide(&mut self, group: &MeteredGroup) -> Result<()> {
        let _ = group;
        Ok(())
    }
}

/// Held-out batches, always the same.
pub struct Validation {
    parts: Vec<ValidationPart>,
}

/// Those of one corpus.
pub struct ValidationPart {
    /// What it is called; its own loss is then measured too.
    pub name: Option<String>,
    /// Its batches.
    pub loader: Box<dyn Loader>,
    /// How many of them are used.
    pub batches: u64,
}

/// Means over the labels of held-out batches.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Steps trained before.
    pub step: u64,
    /// Labels that the means are over.
    pub labels: u64,
    /// What [`Task::evaluate`] names, in nats where it is a loss, and `perplexity`, the exponential
    /// of the loss; of one corpus among several, `NAME of CORPUS`.
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
        Self::of(vec![ValidationPart { name: None, loader, batches }])
    }

    /// Batches of several corpora.
    pub fn of(parts: Vec<ValidationPart>) -> Self {
        Self { parts }
    }
}

impl Measure for Validation {
    /// Ranks share the batches, and add up sums and numbers of labels.
    fn measure(
        &mut self,
        task: &dyn Task,
        step: u64,
        group: &MeteredGroup,
    ) -> Result<Option<Evaluation>> {
        let (mut all, mut labels) = (BTreeMap::<String, f64>::new(), 0.0);
        let mut of_parts = BTreeMap::new();
        for part in self.parts.iter_mut().filter(|part| part.batches > 0) {
            let (sums, count) = part.sums(task, group)?;
            labels += count;
            for (name, sum) in sums {
                if let Some(corpus) = part.name.as_ref().filter(|_| count > 0.0) {
                    of_parts.insert(format!("{name} of {corpus}"), sum / count);
                }
                *all.entry(name).or_default() += sum;
            }
        }
        if labels == 0.0 {
            return Ok(None);
        }
        let mut means = of_parts;
        means.extend(all.into_iter().map(|(name, sum)| (name, sum / labels)));
        let mut evaluation = Evaluation { step, labels: labels as u64, means };
        if let Some(loss) = evaluation.loss() {
            evaluation.means.insert(PERPLEXITY.to_owned(), loss.exp());
        }
        Ok(Some(evaluation))
    }

    fn divide(&mut self, group: &MeteredGroup) -> Result<()> {
        self.parts.iter_mut().try_for_each(|part| part.loader.divide(group.rank(), group.size()))
    }
}

impl ValidationPart {
    /// Sums over the labels that all ranks measure, by name, and how many labels these are.
    fn sums(
        &mut self,
        task: &dyn Task,
        group: &MeteredGroup,
    ) -> Result<(BTreeMap<String, f64>, f64)> {
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        let mut labels = 0;
        self.loader.seek(0)?;
        let own = rank_share(self.batches, group);
        // A rank without a batch of its own still needs the names of what is measured.
        for index in 0..own.max(1) {
            let batch = self.loader.next()?;
            for (name, sum) in no_grad(|| task.evaluate(&batch.tensors))? {
                let total = sums.entry(name.to_owned()).or_default();
                if index < own {
                    *total += sum.f_double_value(&[]).during("read a metric")?;
                }
            }
            labels += if index < own { batch.size.labels } else { 0 };
        }
        let own: Vec<f64> = sums.values().copied().chain([labels as f64]).collect();
        let all = sum_over_ranks(group, &own)?;
        let (count, totals) = match all.split_last() {
            Some((count, totals)) => (*count, totals),
            None => (0.0, &[][..]),
        };
        Ok((sums.into_keys().zip(totals.iter().copied()).collect(), count))
    }
}

/// How many of `batches` are those of this rank.
fn rank_share(batches: u64, group: &MeteredGroup) -> u64 {
    batches.saturating_sub(group.rank() as u64).div_ceil(group.size() as u64)
}
