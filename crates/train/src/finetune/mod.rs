//! Fine-tuning: a model and labelled examples in, a model that does a job out, with its scores.
//!
//! What a job is, [`FinetuneTask`] says: implement it for one of your own, and it trains with the
//! same [`Trainer`](crate::trainer::Trainer), metrics and run folders as ours.
//!
//! | module | holds |
//! | --- | --- |
//! | here | the interface |
//! | [`example`], [`labels`] | an example in tokens; which classes there are |
//! | [`rows`] | examples laid into rows, side by side or padded |
//! | [`loader`] | the order of examples, and batches of them |
//! | [`layers`], [`adapters`] | how fast each block learns; what learns beside weights that don't |
//! | [`learner`] | a task of this kind as a task of the trainer |
//! | [`measure`] | predictions on a file, in its order, and their scores while training |
//! | [`head`] | the model, under the head that the task asks for |
//! | [`classify`], [`tag`], [`answer`], [`seq2seq`], [`causal`], [`similarity`], [`rank`] | tasks |
//! | [`config`], [`run`] | `bert4rs finetune`: what it is told, and what it does |
//! | [`preview`] | what is printed before training |
//! | [`presets`] | what presets of pretraining say of fine-tuning |
//! | [`identity`] | a hash of the examples, by which a run knows them again |
//! | [`seeds`] | several runs, their mean and spread |
//! | [`use_folder`] | `bert4rs predict` and `evaluate`: a trained model's folder on a file |

pub mod adapters;
pub mod answer;
pub mod causal;
pub mod classify;
pub mod config;
pub mod example;
pub mod head;
pub mod identity;
pub mod labels;
pub mod layers;
pub mod learner;
pub mod loader;
pub mod measure;
mod prepare;
pub mod presets;
pub mod preview;
pub mod rank;
pub mod rows;
pub mod run;
pub mod seeds;
pub mod seq2seq;
pub mod similarity;
pub mod tag;
pub mod use_folder;

use std::path::Path;

use bert4rs_data::{EncodedText, Layout};
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::param::ParamStore;
use serde_json::Value;

use crate::batch::NamedTensors;
use crate::error::Result;
use example::Example;
use head::TaskModel;
use rows::Rows;

/// Scores by name, in the order in which they are told.
pub type NamedScores = Vec<(String, f64)>;

/// A job that a model learns from labelled examples.
pub trait FinetuneTask: 'static {
    /// What is to be learned of an example.
    type Label: Clone + 'static;
    /// What the model says of one.
    type Prediction: Clone + 'static;

    /// Its name, such as `classify`.
    fn name(&self) -> &'static str;

    /// Reads the examples in a file, in its order; without labels if not `labelled`.
    ///
    /// # Errors
    /// What the file has wrong, with its line.
    fn read(&self, path: &Path, labelled: bool) -> Result<Vec<Example<Self::Label>>>;

    /// The model that learns it.
    fn model(&self) -> &TaskModel;

    /// The model, to be changed.
    fn model_mut(&mut self) -> &mut TaskModel;

    /// What [`loss`](Self::loss) and [`predict`](Self::predict) read beside the tokens of
    /// `examples`, which lie in `rows`, on the CPU; and how many losses their labels make, 0 unless
    /// all have one.
    ///
    /// # Errors
    /// What libtorch throws.
    fn tensors(
        &self,
        examples: &[&Example<Self::Label>],
        rows: &Rows,
    ) -> Result<(Vec<(&'static str, Tensor)>, u64)>;

    /// The sum of all labels' losses, a scalar in FP32. Dropout acts.
    ///
    /// # Errors
    /// What libtorch throws.
    fn loss(&self, batch: &NamedTensors) -> Result<Tensor>;

    /// What the model says of each example, in the batch's order, and the sum of the losses where
    /// the batch has labels. No dropout and no gradients.
    ///
    /// # Errors
    /// What libtorch throws.
    fn predict(&self, batch: &NamedTensors) -> Result<(Vec<Self::Prediction>, Option<Tensor>)>;

    /// How `examples` lie in a batch; their texts side by side or below each other, unless
    /// implemented.
    fn rows(&self, examples: &[&Example<Self::Label>], layout: Layout) -> Rows {
        let texts: Vec<&EncodedText> =
            examples.iter().flat_map(|example| example.texts()).collect();
        Rows::new(&texts, layout, self.model().frame)
    }

    /// What is said in the end of a text that `parts` are of, from what the model said of each: the
    /// same, unless implemented.
    fn finish(
        &self,
        parts: &[Example<Self::Label>],
        said: Vec<Self::Prediction>,
    ) -> Option<Self::Prediction> {
        let _ = parts;
        said.into_iter().next()
    }

    /// What can be said only once all predictions of a file are there, in its order, such as
    /// ranks. Nothing unless implemented.
    ///
    /// # Errors
    /// What libtorch throws.
    fn settle(
        &self,
        examples: &[Example<Self::Label>],
        predictions: &mut [Self::Prediction],
    ) -> Result<()> {
        let (_, _) = (examples, predictions);
        Ok(())
    }

    /// Whether [`settle`](Self::settle) says more of a whole file than of its parts.
    fn compares_examples(&self) -> bool {
        false
    }

    /// The number of those that are scored together with this one, if any are: to draw samples of.
    fn group(&self, label: &Self::Label) -> Option<usize> {
        let _ = label;
        None
    }

    /// What predictions are worth.
    fn scores(&self, pairs: &[(&Self::Label, &Self::Prediction)]) -> NamedScores;

    /// The score that decides which weights are best; higher is better.
    fn main_score(&self) -> &'static str;

    /// More about predictions than scores tell, for `evaluate`: a confusion table, scores by class.
    /// Nothing unless implemented.
    fn details(&self, pairs: &[(&Self::Label, &Self::Prediction)]) -> Vec<String> {
        let _ = pairs;
        Vec::new()
    }

    /// What is told of the training examples before training: labels and their shares.
    fn balance(&self, labels: &[&Self::Label]) -> Vec<String>;

    /// A label in words.
    fn label_text(&self, label: &Self::Label) -> String;

    /// A prediction, as `predict` writes it.
    fn prediction_json(&self, prediction: &Self::Prediction) -> Value;

    /// Writes the model, from the exact values in `params`, as transformers loads it: its folder
    /// alone, unless implemented.
    ///
    /// # Errors
    /// What the system says.
    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        self.model().export(folder, params)
    }
}
