//! `bert4rs data`: a corpus made into tokens ahead of a run, and what it is like.

use std::process::ExitCode;

use bert4rs_data::inspect::ShardStatistics;
use bert4rs_data::{Dataset, TextTokenizer, TokenShard};
use bert4rs_train::console::Console;
use bert4rs_train::output::print_line;
use bert4rs_train::{Result, dataset};

use super::train::{config_to_run, overlays};
use crate::flags::{DataCommand, DataFlags, TrainFlags};

/// Of the tokens and documents, so many are shown.
const SHOWN_TOKENS: usize = 10;
const SHOWN_DOCUMENTS: usize = 3;
/// Characters of a document that are shown.
const SHOWN_CHARACTERS: usize = 200;

pub(crate) fn run(flags: &DataFlags) -> Result<ExitCode> {
    match &flags.command {
        DataCommand::Prepare(flags) => prepare(flags).map(drop),
        DataCommand::Inspect(flags) => inspect(&prepare(flags)?),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn prepare(flags: &TrainFlags) -> Result<Dataset> {
    let config = config_to_run(&overlays(flags)?)?;
    let console = Console::default();
    let dataset = dataset::prepare(&config, &mut console.preparation())?;
    console.end();
    for note in &dataset.notes {
        console.line(&format!("note       {note}"));
    }
    console.line(&format!("prepared   {}", dataset.folder.display()));
    console.finish()?;
    Ok(dataset)
}

fn inspect(dataset: &Dataset) -> Result<()> {
    for (name, shard) in [("training", &dataset.train), ("held out", &dataset.held_out)] {
        let statistics = ShardStatistics::of(shard, &dataset.tokenizer)?;
        for line in describe(name, &statistics, &dataset.tokenizer) {
            print_line(&line)?;
        }
    }
    for index in 0..dataset.train.document_count().min(SHOWN_DOCUMENTS) {
        let text = sample(&dataset.train, &dataset.tokenizer, index)?;
        print_line(&format!("document {index}: {text}"))?;
    }
    Ok(())
}

fn describe(name: &str, found: &ShardStatistics, tokenizer: &TextTokenizer) -> Vec<String> {
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
fn sample(shard: &TokenShard, tokenizer: &TextTokenizer, index: usize) -> Result<String> {
    let start = shard.offsets()[index] as usize;
    let end = (shard.offsets()[index + 1] as usize).min(start + SHOWN_CHARACTERS);
    let text = tokenizer.decode(&shard.tokens(start..end)?)?;
    Ok(text.chars().take(SHOWN_CHARACTERS).collect())
}
