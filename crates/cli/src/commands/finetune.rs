//! `bert4rs finetune`: flags become overlays of configuration, then the task trains.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use bert4rs_tensor_core::Error as Core;
use bert4rs_tensor_core::distributed::Launch;
use bert4rs_tensor_core::safetensors::write_atomic;
use bert4rs_train::checkpoint::Interval;
use bert4rs_train::clock::ProcessClock;
use bert4rs_train::config::{Overlay, parse_assignment};
use bert4rs_train::console::{Console, ConsoleOptions};
use bert4rs_train::distributed::Ranks;
use bert4rs_train::finetune::config::{FinetuneConfig, TaskName, resolve};
use bert4rs_train::finetune::presets;
use bert4rs_train::finetune::run::{FinetuneSummary, finetune};
use bert4rs_train::finetune::seeds::{Spread, spreads};
use bert4rs_train::run::Start;
use bert4rs_train::run_folder::{ClaimedFolder, default_path};
use bert4rs_train::stop::StopSignal;
use bert4rs_train::{Error, Result};
use serde_json::json;
use toml::Value;

use super::place::{PlaceFlags, for_one_process};
use super::refuse;
use super::train::{absolute, listen};
use crate::finetune_flags::{
    AnswerWindowFlags, FinetuneFlags, FinetuneRunFlags, FinetuneTaskFlags, LabelledColumnFlags,
    PairColumnFlags, RankFlags, ScoreScaleFlags, SimilarityFlags, TextColumnFlags, WordColumnFlags,
    WritingFlags,
};

/// What came of several seeds, in their folder.
const SPREADS: &str = "seeds.json";

pub(crate) fn run(flags: &FinetuneFlags, clock: ProcessClock) -> Result<ExitCode> {
    let (task, flags, overlays) = of_task(&flags.task);
    let (config, notes) = settings((task, flags), overlays)?;
    let console = flags.console.console();
    let launch = Launch::from_variables(|name| std::env::var(name).ok())?;
    if let Some(launch) = launch {
        for_one_process(&[("--seeds", flags.seeds.is_some())])?;
        learn_together(&config, flags, launch, (&console, &notes), clock)?;
    } else {
        notes.iter().for_each(|note| console.line(&format!("no effect  {note}")));
        let stop = listen()?;
        match flags.seeds {
            Some(seeds) => several(&config, seeds, flags, (&console, clock, &stop))?,
            None => {
                let place = place(flags, task).start(&console)?;
                finetune(&config, &Ranks::alone(), Some(place), (&console, clock, &stop))?;
            }
        }
    }
    console.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Learns as one of several processes.
fn learn_together(
    config: &FinetuneConfig,
    flags: &FinetuneRunFlags,
    launch: Launch,
    (console, notes): (&Console, &[String]),
    clock: ProcessClock,
) -> Result<()> {
    let restarts = launch.restarts;
    // While it waits for the others there is nothing to save: a signal ends it at once.
    let ranks = Ranks::meet(&config.to_table()?, &config.distributed, launch)?;
    let stop = listen()?;
    let learn = || {
        if !ranks.leads() {
            let silent = Console::new(ConsoleOptions { quiet: true, ..ConsoleOptions::default() });
            return finetune(config, &ranks, None, (&silent, clock, &stop)).map(drop);
        }
        notes.iter().for_each(|note| console.line(&format!("no effect  {note}")));
        let place = place(flags, config.task.name).start_of_several(restarts, console)?;
        finetune(config, &ranks, Some(place), (console, clock, &stop)).map(drop)
    };
    learn().inspect_err(|error| ranks.tell_failure(error))
}

/// Where the run is written.
fn place(flags: &FinetuneRunFlags, task: TaskName) -> PlaceFlags<'_> {
    PlaceFlags {
        out: flags.out.as_deref(),
        overwrite: flags.overwrite,
        resume: flags.resume.as_deref(),
        config: flags.config.as_deref(),
        name: task.name(),
    }
}

/// The task, its flags that all have, and overlays of those that it has alone.
fn of_task(flags: &FinetuneTaskFlags) -> (TaskName, &FinetuneRunFlags, Vec<Overlay>) {
    match flags {
        FinetuneTaskFlags::Classify(flags) => {
            let mut overlays = texts(&flags.columns);
            let choices = [
                ("--problem", "task.problem", &flags.problem),
                ("--class-weights", "task.class_weights", &flags.class_weights),
            ];
            overlays.extend(given(choices));
            (TaskName::Classify, &flags.run, overlays)
        }
        FinetuneTaskFlags::Causal(flags) => {
            let columns = given([
                ("--prompt-column", "columns.prompt", &flags.columns.prompt_column),
                ("--completion-column", "columns.completion", &flags.columns.completion_column),
                ("--text-column", "columns.text", &flags.text_column),
            ]);
            (TaskName::Causal, &flags.run, columns)
        }
        FinetuneTaskFlags::Similarity(flags) => {
            (TaskName::Similarity, &flags.run, comparisons(flags))
        }
        FinetuneTaskFlags::Rank(flags) => (TaskName::Rank, &flags.run, relevance(flags)),
        FinetuneTaskFlags::Tag(flags) => (TaskName::Tag, &flags.run, words(&flags.columns)),
        FinetuneTaskFlags::Seq2Seq(flags) => {
            let mut overlays = writing(&flags.writing);
            overlays.extend(given([("--best-by", "seq2seq.best_by", &flags.best_by)]));
            (TaskName::Seq2seq, &flags.run, overlays)
        }
        FinetuneTaskFlags::Answer(flags) => (TaskName::Answer, &flags.run, answers(&flags.answers)),
    }
}

/// Presets, file, `--set`, flags: the later ones win. Also a line about each value of a preset that
/// has no effect.
fn settings(
    (task, flags): (TaskName, &FinetuneRunFlags),
    mut of_task: Vec<Overlay>,
) -> Result<(FinetuneConfig, Vec<String>)> {
    let names: Vec<&str> = flags.preset.iter().map(String::as_str).collect();
    let (mut all, notes) = presets::overlays(&names, task)?;
    if let Some(path) = &flags.config {
        all.push(Overlay::read(path)?);
    }
    let name = task.name();
    all.push(Overlay::single(format!("finetune {name}"), "task.name", name));
    for assignment in &flags.set {
        all.push(parse_assignment(assignment)?);
    }
    all.append(&mut of_task);
    all.extend(run_overlays(flags)?);
    Ok((resolve(&all)?, notes))
}

/// A run for each seed, and what they have in common.
fn several(
    config: &FinetuneConfig,
    seeds: u32,
    flags: &FinetuneRunFlags,
    (console, clock, stop): (&Console, ProcessClock, &StopSignal),
) -> Result<()> {
    let out = flags.out.clone().unwrap_or_else(|| default_path(config.task.name.name()));
    let mut summaries: Vec<FinetuneSummary> = Vec::new();
    for seed in config.seed..config.seed + u64::from(seeds) {
        console.line(&format!("seed       {seed}"));
        let folder = ClaimedFolder::claim(&out.join(format!("seed-{seed}")), flags.overwrite)?;
        let place = Start { folder, checkpoint: None };
        let config = FinetuneConfig { seed, ..config.clone() };
        let surroundings = (console, clock, stop);
        summaries.extend(finetune(&config, &Ranks::alone(), Some(place), surroundings)?);
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

fn labelled(flags: &LabelledColumnFlags) -> Vec<Overlay> {
    given([
        ("--text-column", "columns.text", &flags.text_column),
        ("--label-column", "columns.label", &flags.label_column),
    ])
}

fn pairs(flags: &PairColumnFlags) -> Vec<Overlay> {
    let mut overlays = labelled(&flags.labelled);
    overlays.extend(given([("--text-pair-column", "columns.text_pair", &flags.text_pair_column)]));
    overlays
}

fn texts(flags: &TextColumnFlags) -> Vec<Overlay> {
    let mut overlays = pairs(&flags.pair);
    let separator = ("--label-separator", "columns.label_separator", &flags.label_separator);
    overlays.extend(given([separator]));
    overlays
}

fn comparisons(flags: &SimilarityFlags) -> Vec<Overlay> {
    let mut overlays = pairs(&flags.columns);
    overlays.extend(given([
        ("--negative-column", "columns.negative", &flags.negative.negative_column),
        ("--loss", "similarity.loss", &flags.loss),
        ("--pooling", "similarity.pooling", &flags.pooling),
    ]));
    overlays.extend(score_scale(&flags.scale));
    let at_once = flags.encode_at_once.map(|count| {
        Overlay::single("--encode-at-once", "similarity.encode_at_once", i64::from(count))
    });
    overlays.extend(at_once);
    overlays
}

fn relevance(flags: &RankFlags) -> Vec<Overlay> {
    let mut overlays = labelled(&flags.columns);
    overlays.extend(given([("--query-column", "columns.query", &flags.query.query_column)]));
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
    if let Some(interval) = &flags.checkpoint_every {
        let interval: Interval = interval.parse()?;
        overlays.push(Overlay::single("--checkpoint-every", "checkpoint.every", interval));
    }
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
