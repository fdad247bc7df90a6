//! Accumulated batches, however unlike, are one large batch.

use std::path::Path;

use bert4rs_data::{
    CorpusReading, Dataset, DatasetOptions, HeldOut, Objective, TokenizerChoice, TokenizerTraining,
};
use bert4rs_optim::{Optimizer, OptimizerConfig, UpdateImplementation};
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::profile::{self, Event, EventKind};
use bert4rs_tensor_core::{Device, Kind};

use super::*;
use crate::batch::Batch;
use crate::build;
use crate::captured_steps::CapturedSteps;
use crate::config::{ComputedLogits, Config, Overlay, resolve};
use crate::dataset::Corpora;
use crate::execution::Execution;
use crate::task::divisor;

/// A text whose paragraphs have from 1 to 40 words.
fn dataset(folder: &Path, objective: Objective) -> Dataset {
    let words = ["the", "cat", "sees", "a", "small", "mat", "and", "walks", "home", "again"];
    let paragraph = |index: usize| {
        let length = 1 + index * 7 % 40;
        let words = (0..length).map(|word| words[(index + word * word) % 10]);
        words.collect::<Vec<_>>().join(" ")
    };
    let corpus = folder.join("corpus.txt");
    std::fs::write(&corpus, (0..200).map(paragraph).collect::<Vec<_>>().join("\n\n")).unwrap();
    let options = DatasetOptions {
        corpus: vec![corpus],
        reading: CorpusReading::default(),
        objective,
        tokenizer: TokenizerChoice::Train(TokenizerTraining::new(340)),
        held_out: HeldOut::Share(0.1),
        cache: folder.join(format!("{objective:?}")),
        shard_tokens: bert4rs_data::SHARD_TOKENS,
        duplicates: bert4rs_data::Duplicates::Keep,
    };
    bert4rs_data::prepare(&options, &mut |_| {}).unwrap()
}

/// A tiny model in FP32.
fn config(family: &str, packing: &str, loss: &str, batch_size: u32) -> Config {
    let values = format!(
        "[model]\nfamily = {family:?}\nvocab_size = 400\nhidden_size = 32\nnum_layers = 1\n\
         num_heads = 2\n\
         [data]\nseq_len = 32\nbatch_size = {batch_size}\npacking = {packing:?}\n\
         [loss]\nz_loss = 1e-3\nlabel_smoothing = 0.1\nimplementation = {loss:?}\n\
         [compute]\ndevice = \"cpu\"\nlogits = \"masked\"\n"
    );
    resolve(&[Overlay::parse("test", &values).unwrap()]).unwrap()
}

/// How far gradients are apart, over the norm of those expected.
fn relative_error(found: &[Tensor], expected: &[Tensor]) -> f64 {
    let squares = |x: &Tensor| x.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
    let pairs = found.iter().zip(expected).filter(|(_, expected)| expected.defined());
    let (mut error, mut norm) = (0.0, 0.0);
    for (found, expected) in pairs {
        error += squares(&(found - expected));
        norm += squares(expected);
    }
    (error / norm).sqrt()
}

fn check(dataset: Dataset, family: &str, packing: &str, loss: &str) {
    let corpora = Corpora::one(dataset);
    // Sequences 0 to 3 as one batch, and as one of three and one of one.
    let batch = |size: u32, position: u64| -> Batch {
        let config = config(family, packing, loss, size);
        let mut loader = build::data(&config, &corpora, (Device::Cpu, 1)).unwrap().loader;
        loader.seek(position).unwrap();
        loader.next().unwrap()
    };
    let (whole, parts) = (batch(4, 0), [batch(3, 0), batch(1, 3)]);
    let labels = whole.size.labels;
    assert_eq!(parts[0].size.labels + parts[1].size.labels, labels, "{family} {packing}");
    assert_ne!(parts[0].size.labels, parts[1].size.labels, "they are unlike");

    let mut params = ParamStore::new(Device::Cpu, Kind::Float);
    let task = build::task(&config(family, packing, loss, 4), corpora.tokenizer().clone(), &params)
        .unwrap();
    let optimizer = Optimizer::new(OptimizerConfig::adamw(1e-3), params.params_mut()).unwrap();
    let work = TrainStep::new(task, params, optimizer.into());
    let divisor = divisor(labels, Device::Cpu).unwrap();
    let (expected_loss, expected) = work.gradients(&[whole.tensors], &divisor).unwrap();
    let parts = parts.map(|batch| batch.tensors);
    let (found_loss, found) = work.gradients(&parts, &divisor).unwrap();

    let apart = (found_loss.double_value(&[]) / expected_loss.double_value(&[]) - 1.0).abs();
    assert!(apart < 1e-6, "{family} {packing} {loss}: loss off by {apart:.1e}");
    let apart = relative_error(&found, &expected);
    assert!(apart < 1e-6, "{family} {packing} {loss}: gradients off by {apart:.1e}");
}

#[test]
fn uneven_batches_are_one_large_batch() {
    let folder = tempfile::tempdir().unwrap();
    for (family, objective) in [
        ("bert", Objective::MaskedTokens),
        ("gpt", Objective::NextTokens),
        ("t5", Objective::Spans),
    ] {
        for packing in ["packed", "padded"] {
            for loss in ["plain", "chunked"] {
                check(dataset(folder.path(), objective), family, packing, loss);
            }
        }
    }
}

/// A graph is recorded for each shape.
#[test]
fn batches_that_are_to_be_captured_have_few_shapes() {
    let folder = tempfile::tempdir().unwrap();
    for (family, objective) in [
        ("bert", Objective::MaskedTokens),
        ("gpt", Objective::NextTokens),
        ("t5", Objective::Spans),
    ] {
        let mut config = config(family, "packed", "chunked", 4);
        config.compute.execution = Execution::Capturable;
        config.compute.logits = ComputedLogits::Masked;
        let corpora = Corpora::one(dataset(folder.path(), objective));
        let mut data = build::data(&config, &corpora, (Device::Cpu, 1)).unwrap();
        let mut shapes: Vec<NamedTensors> = Vec::new();
        for _ in 0..200 {
            let batch = data.loader.next().unwrap().tensors;
            if !shapes.iter().any(|shape| shape.same_shapes(&batch)) {
                shapes.push(batch);
            }
        }
        assert!(shapes.len() <= 2, "{family}: {shapes:?}");
    }
}

/// Operations of libtorch that launch no kernel: they make tensors and views.
const NO_LAUNCH: [&str; 24] = [
    "alias",
    "as_strided",
    "detach",
    "detach_",
    "empty",
    "empty_like",
    "empty_strided",
    "expand",
    "narrow",
    "new_empty",
    "permute",
    "reshape",
    "resolve_conj",
    "resolve_neg",
    "select",
    "set_",
    "slice",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
];

/// How many operations of a captured step would each launch a kernel on a GPU: those with no other
/// operation inside.
fn launches(config: &Config, dataset: Dataset) -> usize {
    let corpora = Corpora::one(dataset);
    let mut loader = build::data(config, &corpora, (Device::Cpu, 1)).unwrap().loader;
    let mut params = ParamStore::new(Device::Cpu, Kind::Float);
    let task = build::task(config, corpora.tokenizer().clone(), &params).unwrap();
    let optimizer = Optimizer::new(config.optimizer.clone(), params.params_mut()).unwrap();
    let mut work = TrainStep::new(task, params, optimizer.into());
    let mut captured = CapturedSteps::new(Execution::Capturable, Device::Cpu).unwrap();
    let mut step = || {
        let batch = loader.next().unwrap();
        drop(captured.step(&mut work, &[batch.tensors], batch.size.labels, 1.0).unwrap());
    };
    step();
    profile::start(Device::Cpu).unwrap();
    {
        let _span = profile::span("counted step");
        step();
    }
    let events = profile::stop(None).unwrap();
    // Other tests run on threads of their own.
    let own = events.iter().find(|event| event.name == "counted step").unwrap().thread;
    let is_operation = |event: &&Event| event.thread == own && event.kind == EventKind::Operation;
    let operations: Vec<&Event> = events.iter().filter(is_operation).collect();
    let name = |event: &Event| event.name.strip_prefix("aten::").unwrap_or("own").to_owned();
    let has_inside = |index: usize| {
        let next = operations.get(index + 1);
        next.is_some_and(|next| next.start_ns < operations[index].end_ns)
    };
    let is_launch = |index: &usize| {
        !has_inside(*index) && !NO_LAUNCH.contains(&name(operations[*index]).as_str())
    };
    (0..operations.len()).filter(is_launch).count()
}

/// Between one and two thousand launches a step are what a GPU waits for at small sizes.
#[test]
fn a_captured_step_has_few_launches() {
    let folder = tempfile::tempdir().unwrap();
    let count = |layers: u32, implementation| {
        let mut config = config("bert", "packed", "chunked", 4);
        config.compute.execution = Execution::Capturable;
        config.model.num_layers = layers;
        config.optimizer.adamw.implementation = implementation;
        launches(&config, dataset(folder.path(), Objective::MaskedTokens))
    };
    let of = |implementation| {
        let [one, three] = [1, 3].map(|layers| count(layers, implementation));
        (one, (three - one) / 2)
    };
    let (own, of_layer) = of(UpdateImplementation::Fused);
    let (plain, plain_of_layer) = of(UpdateImplementation::Plain);
    eprintln!(
        "launches: {own} and {of_layer} a layer, {plain} and {plain_of_layer} with libtorch's AdamW"
    );
    assert!(of_layer <= 100 && own <= 300, "{own} launches, {of_layer} a layer");
    // 16 parameters of a layer, each with a dozen passes.
    assert!(plain_of_layer >= of_layer + 16 * 10, "{plain_of_layer} for {of_layer}");
}
