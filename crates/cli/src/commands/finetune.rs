//! `bert4rs finetune`: flags become overlays of configuration, then the task trains.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use bert4rs_tensor_core::Error as Core;
use bert4rs_tensor_core::safetensors::write_atomic;
use bert4rs_train::clock::ProcessClock;
use bert4rs_train::config::{Overlay, parse_assignment};
use bert4rs_train::console::Console;
use bert4rs_train::finetune::config::{FinetuneConfig, resolve};
use bert4rs_train::finetune::run::{FinetuneSummary, finetune};
use bert4rs_train::finetune::seeds::{Spread, spreads};
use bert4rs_train::run_folder::{ClaimedFolder, default_path};
use bert4rs_train::stop::StopSignal;
use bert4rs_train::{Error, Result};
use serde_json::json;
use toml::Value;

use super::refuse;
use super::train::absolute;
use crate::finetune_flags::{
    AnswerWindowFlags, FinetuneFlags, FinetuneRunFlags, FinetuneTaskFlags, RankFlags,
    ScoreScaleFlags, SimilarityFlags, TextColumnFlags, WordColumnFlags, WritingFlags,
};

/// What came of several seeds, in their folder.
const SPREADS: &str = "seeds.json";

pub(crate) fn run(flags: &FinetuneFlags, clock: ProcessClock) -> Result<ExitCode> {
    let (name, flags, mut overlays) = match &flags.task {
        FinetuneTaskFlags::Classify(flags) => {
            let mut overlays = texts(&flags.columns);
            let choices = [
                ("--problem", "task.problem", &flags.problem),
                ("--class-weights", "task.class_weights", &flags.class_weights),
            ];
            overlays.extend(given(choices));
            ("classify", &flags.run, overlays)
        }
        FinetuneTaskFlags::Causal(flags) => {
            let columns = given([
                ("--prompt-column", "columns.prompt", &flags.columns.prompt_column),
                ("--completion-column", "columns.completion", &flags.columns.completion_column),
                ("--text-column", "columns.text", &flags.text_column),
            ]);
            ("causal", &flags.run, columns)
        }
        FinetuneTaskFlags::Similarity(flags) => ("similarity", &flags.run, comparisons(flags)),
        FinetuneTaskFlags::Rank(flags) => ("rank", &flags.run, relevance(flags)),
        FinetuneTaskFlags::Tag(flags) => ("tag", &flags.run, words(&flags.columns)),
        FinetuneTaskFlags::Seq2Seq(flags) => {
            let mut overlays = writing(&flags.writing);
            overlays.extend(given([("--best-by", "seq2seq.best_by", &flags.best_by)]));
            ("seq2seq", &flags.run, overlays)
        }
        FinetuneTaskFlags::Answer(flags) => ("answer", &flags.run, answers(&flags.answers)),
    };
    let mut all = Vec::new();
    if let Some(path) = &flags.config {
        all.push(Overlay::read(path)?);
    }
    all.push(Overlay::single(format!("finetune {name}"), "task.name", name));
    for assignment in &flags.set {
        all.push(parse_assignment(assignment)?);
    }
    all.append(&mut overlays);
    all.extend(run_overlays(flags)?);
    let config = resolve(&all)?;
    let console = flags.console.console();
    let stop = StopSignal::listen()
        .map_err(|source| Error::Io { path: "the handling of signals".into(), source })?;
    let out = flags.out.clone().unwrap_or_else(|| default_path(name));
    match flags.seeds {
        Some(seeds) => several(&config, seeds, (&out, flags.overwrite), (&console, clock, &stop))?,
        None => {
            let folder = ClaimedFolder::claim(&out, flags.overwrite)?;
            finetune(&config, folder, (&console, clock, &stop))?;
        }
    }
    console.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// A run for each seed, and what they have in common.
fn several(
    config: &FinetuneConfig,
    seeds: u32,
    (out, overwrite): (&Path, bool),
    (console, clock, stop): (&Console, ProcessClock, &StopSignal),
) -> Result<()> {
    let mut summaries: Vec<FinetuneSummary> = Vec::new();
    for seed in config.seed..config.seed + u64::from(seeds) {
        console.line(&format!("seed       {seed}"));
        let folder = ClaimedFolder::claim(&out.join(format!("seed-{seed}")), overwrite)?;
        let config = FinetuneConfig { seed, ..config.clone() };
        summaries.push(finetune(&config, folder, (console, clock, stop))?);
    }
    let of = |part: fn(&FinetuneSummary) -> &BTreeMap<String, f64>| {
        let runs: Vec<_> = summaries.iter().map(|summary| part(summary).clone()).collect();
        spreads(&runs)
    };
    let (validation, test) = (of(|summary| &summary.validation), of(|summary| &summary.test));
    let object = json!({ "validation": validation, "test": test });
    write_atomic(&out.join(SPREADS), format!("{object:#}\n").as_bytes())?;
    if console.shows_object("seeds", &object) {
        return Ok(());
    }
    for (name, spreads) in [("validation", validation), ("test", test)] {
        for (score, Spread { mean, standard_deviation, runs }) in spreads {
            let text = format!("{score} {mean:.4} ± {standard_deviation:.4} over {runs} seeds");
            console.line(&format!("{name:<10} {text}"));
        }
    }
    Ok(())
}

/// Overlays of the texts that are given: flag, key, value.
fn given<'a>(
    values: impl IntoIterator<Item = (&'a str, &'a str, &'a Option<String>)>,
) -> Vec<Overlay> {
    let overlay = |(flag, key, value): (&str, &str, &Option<String>)| {
        value.as_ref().map(|value| Overlay::single(flag, key, value.as_str()))
    };
    values.into_iter().filter_map(overlay).collect()
}

fn texts(flags: &TextColumnFlags) -> Vec<Overlay> {
    given([
        ("--text-column", "columns.text", &flags.text_column),
        ("--text-pair-column", "columns.text_pair", &flags.text_pair_column),
        ("--label-column", "columns.label", &flags.label_column),
        ("--label-separator", "columns.label_separator", &flags.label_separator),
    ])
}

fn comparisons(flags: &SimilarityFlags) -> Vec<Overlay> {
    let mut overlays = given([
        ("--text-column", "columns.text", &flags.text_column),
        ("--text-pair-column", "columns.text_pair", &flags.text_pair_column),
        ("--negative-column", "columns.negative", &flags.negative.negative_column),
        ("--label-column", "columns.label", &flags.label_column),
        ("--loss", "similarity.loss", &flags.loss),
        ("--pooling", "similarity.pooling", &flags.pooling),
    ]);
    overlays.extend(score_scale(&flags.scale));
    let at_once = flags.encode_at_once.map(|count| {
        Overlay::single("--encode-at-once", "similarity.encode_at_once", i64::from(count))
    });
    overlays.extend(at_once);
    overlays
}

fn relevance(flags: &RankFlags) -> Vec<Overlay> {
    let mut overlays = given([
        ("--query-column", "columns.query", &flags.query.query_column),
        ("--text-column", "columns.text", &flags.text_column),
        ("--label-column", "columns.label", &flags.label_column),
    ]);
    overlays.extend(score_scale(&flags.scale));
    overlays
}

fn score_scale(flags: &ScoreScaleFlags) -> Option<Overlay> {
    let scale = flags.score_scale?;
    Some(Overlay::single("--score-scale", "task.score_scale", scale))
}

fn words(flags: &WordColumnFlags) -> Vec<Overlay> {
    let mut overlays = given([
        ("--words-field", "columns.words", &flags.words_field),
        ("--tags-field", "columns.tags", &flags.tags_field),
    ]);
    for (flag, key, value) in [
        ("--word-column", "columns.word_column", flags.word_column),
        ("--tag-column", "columns.tag_column", flags.tag_column),
    ] {
        overlays.extend(value.map(|value| Overlay::single(flag, key, value)));
    }
    overlays
}

fn writing(flags: &WritingFlags) -> Vec<Overlay> {
    let mut overlays = given([
        ("--source-column", "columns.source", &flags.source_column),
        ("--target-column", "columns.target", &flags.target_column),
        ("--prefix", "seq2seq.prefix", &flags.prefix),
    ]);
    for (flag, key, value) in [
        ("--max-target-length", "seq2seq.max_target_length", flags.max_target_length),
        ("--beams", "seq2seq.beams", flags.beams),
    ] {
        overlays.extend(value.map(|value| Overlay::single(flag, key, i64::from(value))));
    }
    overlays
}

fn answers(flags: &AnswerWindowFlags) -> Vec<Overlay> {
    let mut overlays = Vec::new();
    for (flag, key, value) in [
        ("--stride", "answer.stride", flags.stride),
        ("--longest-answer", "answer.longest", flags.longest_answer),
    ] {
        overlays.extend(value.map(|value| Overlay::single(flag, key, i64::from(value))));
    }
    let threshold = flags
        .no_answer_threshold
        .map(|value| Overlay::single("--no-answer-threshold", "answer.no_answer_threshold", value));
    overlays.extend(threshold);
    overlays
}

fn run_overlays(flags: &FinetuneRunFlags) -> Result<Vec<Overlay>> {
    let mut overlays = Vec::new();
    for (flag, key, path) in [
        ("--model", "task.model", &flags.model),
        ("--train", "task.train", &flags.train),
        ("--validation", "task.validation", &flags.validation),
        ("--test", "task.test", &flags.test),
    ] {
        let Some(path) = path else { continue };
        overlays.push(Overlay::single(flag, key, existing(path)?));
    }
    for (flag, key, value) in [
        ("--epochs", "train.epochs", flags.epochs),
        ("--batch-size", "data.batch_size", flags.batch_size),
        ("--max-length", "task.max_length", flags.max_length),
        ("--patience", "train.patience", flags.patience),
        ("--seed", "seed", flags.seed),
    ] {
        overlays.extend(value.map(|value| Overlay::single(flag, key, i64::from(value))));
    }
    let lr = flags.lr.map(|lr| Overlay::single("--lr", "optimizer.adamw.lr", lr));
    overlays.extend(lr);
    overlays.extend(given([("--device", "compute.device", &flags.device)]));
    Ok(overlays)
}

/// The path from the root, of something that is there.
fn existing(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Err(refuse(path, "does not exist"));
    }
    absolute(path).map(Value::String).map_err(|error| match error {
        Error::Io { path, source } => Core::Io { path, source }.into(),
        other => other,
    })
}
