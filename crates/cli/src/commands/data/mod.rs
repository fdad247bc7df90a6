//! `bert4rs data`: a corpus made into tokens ahead of a run, and what it is like.

mod batch;

use std::process::ExitCode;

use bert4rs_data::inspect::ShardStatistics;
use bert4rs_data::{Dataset, TextTokenizer, TokenStore};
use bert4rs_train::config::Config;
use bert4rs_train::console::Console;
use bert4rs_train::dataset::{self, Corpora};
use bert4rs_train::output::print_line;
use bert4rs_train::{Error, Result, build};

use super::train::{config_to_run, overlays};
use crate::flags::{DataCommand, DataFlags, InspectFlags, TrainFlags};

/// Of the tokens, so many are shown.
const SHOWN_TOKENS: usize = 10;
/// Characters of a document that are shown.
const SHOWN_CHARACTERS: usize = 200;

pub(crate) fn run(flags: &DataFlags) -> Result<ExitCode> {
    match &flags.command {
        DataCommand::Prepare(flags) => prepare(flags),
        DataCommand::Inspect(flags) => inspect(flags),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn prepare(flags: &TrainFlags) -> Result<()> {
    let config = config_to_run(&overlays(flags)?)?;
    if let Some(out) = flags.out.as_ref().filter(|out| out.exists()) {
        let reason = "exists; choose another folder as --out, or remove this one".into();
        return Err(Error::RunFolder { path: out.clone(), reason });
    }
    let console = Console::default();
    let corpora = corpora(&config, &console)?;
    let several = corpora.parts().len() > 1;
    for part in corpora.parts() {
        let dataset = &part.dataset;
        dataset.notes.iter().for_each(|note| console.line(&format!("note       {note}")));
        let folder = match &flags.out {
            Some(out) if several => out.join(&part.name),
            Some(out) => out.clone(),
            None => dataset.folder.clone(),
        };
        if flags.out.is_some() {
            dataset.copy_to(&folder)?;
        }
        let (train, held_out) = (&dataset.train, &dataset.held_out);
        console.line(&format!(
            "prepared   {} tokens in {} documents, {} held out",
            train.token_count() + held_out.token_count(),
            train.document_count() + held_out.document_count(),
            held_out.document_count()
        ));
        console.line(&format!("folder     {}; train from it by --corpus", folder.display()));
    }
    console.finish()
}

fn corpora(config: &Config, console: &Console) -> Result<Corpora> {
    let corpora = dataset::prepare(config, &mut console.preparation())?;
    console.end();
    Ok(corpora)
}

fn inspect(flags: &InspectFlags) -> Result<()> {
    let config = config_to_run(&overlays(&flags.run)?)?;
    let console = Console::default();
    let corpora = corpora(&config, &console)?;
    let mut data = build::training_data(&config, &mut console.preparation())?;
    if let Some(number) = flags.batch {
        data.loader.seek(number)?;
        let batch = data.loader.next()?;
        for line in batch::describe(number, &batch, corpora.tokenizer())? {
            print_line(&line)?;
        }
        return console.finish();
    }
    // What a run says of packing and mixing.
    for line in &data.facts.description {
        print_line(line)?;
    }
    for part in corpora.parts() {
        inspect_part(&part.dataset, flags.samples)?;
    }
    console.finish()
}

fn inspect_part(dataset: &Dataset, samples: usize) -> Result<()> {
    for (name, store) in [("training", &dataset.train), ("held out", &dataset.held_out)] {
        let statistics = ShardStatistics::of(store, &dataset.tokenizer)?;
        for line in describe(name, &statistics, &dataset.tokenizer) {
            print_line(&line)?;
        }
    }
    let documents = dataset.train.document_count();
    let shown = samples.min(documents);
    for number in 0..shown {
        let index = number * documents / shown;
        let text = sample(&dataset.train, &dataset.tokenizer, index)?;
        print_line(&format!("document {index}: {text}"))?;
    }
    Ok(())
}

fn describe(name: &str, found: &ShardStatistics, tokenizer: &TextTokenizer) -> Vec<String> {
    if found.documents == 0 {
        return vec![format!("{name}: nothing")];
    }
    let mut lines = vec![format!(
        "{name}: {} documents, {} tokens, {:.2} bytes a token, {:.3}% unknown, {} of {} ids",
        found.documents,
        found.tokens,
        found.bytes_per_token,
        100.0 * found.unknown_share,
        found.frequencies.len(),
        tokenizer.vocab_size()
    )];
    for (power, &count) in found.lengths.iter().enumerate().filter(|(_, count)| **count > 0) {
        let share = 100.0 * count as f64 / found.documents as f64;
        let bar = "#".repeat((share / 2.0).ceil() as usize);
        let (least, most) = (1u64 << power, (2u64 << power) - 1);
        lines.push(format!("  {least:>9} to {most:>9} tokens {count:>9} {share:5.1}% {bar}"));
    }
    let frequent = found.frequencies.iter().take(SHOWN_TOKENS).map(|&(id, count)| {
        let token = tokenizer.token(id).unwrap_or_default();
        format!("{token:?} {:.1}%", 100.0 * count as f64 / found.tokens as f64)
    });
    lines.push(format!("  most frequent: {}", frequent.collect::<Vec<_>>().join(", ")));
    lines
}

/// The beginning of a document, as its tokens say it.
fn sample(shard: &TokenStore, tokenizer: &TextTokenizer, index: usize) -> Result<String> {
    let start = shard.offsets()[index] as usize;
    let end = (shard.offsets()[index + 1] as usize).min(start + SHOWN_CHARACTERS);
    let text = tokenizer.decode(&shard.tokens(start..end)?)?;
    Ok(text.chars().take(SHOWN_CHARACTERS).collect())
}
