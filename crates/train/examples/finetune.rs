//! Fine-tuning by the library: a table in memory, a classifier, the best weights, the model's
//! folder, and what it says of a new text; without our command line and configuration files.
//!
//! The model here is a small BERT that has learned nothing. With a published one, give its folder:
//!
//! ```text
//! cargo run -p bert4rs-train --example finetune
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;
use std::rc::Rc;

use bert4rs_data::Layout;
use bert4rs_models::bert::{BertConfig, BertForMaskedLm, BertSize};
use bert4rs_models::hugging_face::{HeadKind, save_bert_for_masked_lm};
use bert4rs_optim::schedule::{Horizon, ScheduleConfig};
use bert4rs_optim::{Optimizer, OptimizerConfig};
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Kind, random};
use bert4rs_train::Result;
use bert4rs_train::best_weights::BestWeights;
use bert4rs_train::finetune::FinetuneTask;
use bert4rs_train::finetune::classify::{ClassProblem, Classify, LabelledText, TextColumns};
use bert4rs_train::finetune::example::Example;
use bert4rs_train::finetune::head::{Dropouts, HeadRequest, TaskModel};
use bert4rs_train::finetune::labels::LabelNames;
use bert4rs_train::finetune::learner::Learner;
use bert4rs_train::finetune::loader::{BatchOptions, ExampleLoader};
use bert4rs_train::finetune::measure::{ScoreMeasure, predict};
use bert4rs_train::trainer::{TrainOptions, Trainer};

const WORDS: [&str; 10] = ["a", "the", "film", "plot", "is", "was", "good", "bad", "fine", "poor"];

/// Writes a small BERT, with a tokenizer that has a token for each of our words.
fn write_model(folder: &Path) -> Result<()> {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let vocabulary: Vec<&str> = special.into_iter().chain(WORDS).collect();
    let config = BertConfig {
        vocab_size: vocabulary.len() as i64,
        hidden_size: 32,
        num_attention_heads: 2,
        intermediate_size: 64,
        max_position_embeddings: 16,
        ..BertConfig::published(BertSize::Tiny)
    };
    let params = ParamStore::new(Device::Cpu, Kind::Float);
    BertForMaskedLm::new(&params.root(), &config, AttentionImplementation::Fused)?;
    save_bert_for_masked_lm(folder, &config, &params)?;
    let path = folder.join("vocab.txt");
    let io = |source| bert4rs_train::Error::Io { path: path.clone(), source };
    std::fs::write(&path, vocabulary.join("\n")).map_err(io)
}

/// A table in memory: texts with a word that tells their label, and a line each, for messages.
fn table() -> Vec<LabelledText> {
    let row = |number: usize| {
        let (word, label) =
            [("good", "pos"), ("bad", "neg"), ("fine", "pos"), ("poor", "neg")][number % 4];
        let (article, noun) = (WORDS[number / 4 % 2], WORDS[2 + number / 8 % 2]);
        let verb = WORDS[4 + number / 16 % 2];
        LabelledText {
            line: number as u64 + 1,
            first: format!("{article} {noun} {verb} {word}"),
            second: None,
            label: Some(label.into()),
        }
    };
    (0..32).map(row).collect()
}

/// The classifier: the model in `folder` under a new head.
fn task(folder: &Path) -> Result<Classify> {
    let labels = LabelNames::of(["neg", "pos"]);
    let problem = ClassProblem::SingleLabel;
    let request = HeadRequest {
        head: HeadKind::SequenceClassification,
        labels: Some(labels.clone()),
        settings: vec![("problem_type", problem.type_name().into())],
    };
    // Fused attention drops none of its weights.
    let dropouts = Dropouts { hidden: Some(0.1), attention: Some(0.0) };
    let params = ParamStore::new(Device::Cpu, Kind::Float);
    let attention = AttentionImplementation::Fused;
    let model = TaskModel::load(folder, &request, dropouts, attention, (params, 0))?;
    Ok(Classify::new(model, TextColumns::default(), problem, labels))
}

/// Learns the table, keeps the model in `out`, and returns what it makes of `text`.
fn train(folder: &Path, out: &Path, text: &str, epochs: u64) -> Result<serde_json::Value> {
    random::seed(1);
    write_model(folder)?;
    let mut task = task(folder)?;
    let name = Path::new("the table in memory");
    let examples: Rc<[Example<_>]> = task.examples(name, table())?.into();
    let new = LabelledText { line: 1, first: text.into(), second: None, label: None };
    let new = task.examples(name, vec![new])?;
    let mut params = task.model_mut().model.take_params();
    let (task, device, layout) = (Rc::new(task), Device::Cpu, Layout::Packed);
    let batches = BatchOptions { batch_size: 8, layout, group_by_length: false, device };
    let loader = ExampleLoader::new(Rc::clone(&task), Rc::clone(&examples), batches, 1);
    let (each_pass, steps) = (loader.batches_per_epoch(), loader.batches_per_epoch() * epochs);
    let best = BestWeights::new(task.main_score(), 0);
    let optimizer = Optimizer::new(OptimizerConfig::adamw(0.005), params.params_mut())?;
    let schedule = ScheduleConfig::linear(4).resolve(Horizon::Steps(steps))?;
    let options = TrainOptions { eval_every: each_pass, ..TrainOptions::steps(steps) };
    let learner = Box::new(Learner(Rc::clone(&task)));
    let (measured, size) = (Rc::clone(&examples), batches.batch_size);
    let mut trainer =
        Trainer::new(learner, Box::new(loader), params, optimizer, schedule, options)?
            .with_validation(ScoreMeasure {
                task: Rc::clone(&task),
                examples: measured,
                batch_size: size,
                layout,
                device,
            })
            .with_best_weights(best);
    trainer.run()?;
    trainer.restore_best()?;
    task.export(out, trainer.params())?;
    let said = predict(&*task, &new, (1, layout, device))?;
    Ok(said.all.first().map(|said| task.prediction_json(said)).unwrap_or_default())
}

fn main() -> Result<()> {
    let (folder, out) = (Path::new("runs/small_bert"), Path::new("runs/small_classifier"));
    let io = |source| bert4rs_train::Error::Io { path: folder.into(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    println!("the plot was fine: {}", train(folder, out, "the plot was fine", 10)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_learns_the_table_and_leaves_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let said = train(folder.path(), &out, "a film is poor", 10).unwrap();
        assert_eq!(said["label"], "neg", "{said}");
        assert!(out.join("model.safetensors").exists() && out.join("vocab.txt").exists());
    }
}
