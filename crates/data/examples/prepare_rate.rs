//! How fast text becomes tokens on disk, beside the `tokenizers` crate's own batches in memory.
//!
//! `cargo run -p bert4rs-data --example prepare_rate -- TEXT.txt TOKENIZER [ROUNDS]` takes turns: a
//! whole preparation with that tokenizer, then `encode_batch_fast` over the same documents, both on
//! all cores. Then it opens what was prepared and makes batches on one core.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bert4rs_data::{
    BatchSource, CorpusReading, Dataset, DatasetOptions, Duplicates, Fit, HeldOut, Layout,
    MaskUnit, MlmBatches, MlmOptions, Objective, SHARD_TOKENS, TokenizerChoice, prepare, read_text,
};
use tokenizers::Tokenizer;

/// Documents that the crate is given at a time, so that its results don't fill the memory.
const BATCH: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [text, tokenizer, rest @ ..] = arguments.as_slice() else {
        return Err("expected TEXT.txt TOKENIZER [ROUNDS]".into());
    };
    let rounds = rest.first().map_or(Ok(3), |rounds| rounds.parse())?;
    let bytes = std::fs::metadata(text)?.len() as f64 / 1e6;
    let inner = Tokenizer::from_file(Path::new(tokenizer).join("tokenizer.json"))
        .map_err(|error| error.to_string())?;
    let mut prepared = None;
    for round in 0..rounds {
        let cache = tempfile::tempdir()?;
        let started = Instant::now();
        let dataset = prepare(&options(text, tokenizer, cache.path()), &mut |_| {})?;
        let ours = bytes / started.elapsed().as_secs_f64();
        let theirs = bytes / batches_of_the_crate(text, &inner)?;
        say(&format!(
            "round {round}: prepared {ours:.1} MB/s, encode_batch_fast {theirs:.1} MB/s, \
             ratio {:.2}",
            ours / theirs
        ));
        prepared = Some((cache, dataset));
    }
    let Some((_cache, dataset)) = prepared else { return Ok(()) };
    let started = Instant::now();
    let opened = Dataset::open(&dataset.folder, &mut |_| {})?;
    let tokens = opened.train.token_count();
    say(&format!("{tokens} tokens opened in {:.1} ms", 1e3 * started.elapsed().as_secs_f64()));
    let options = MlmOptions {
        batch_size: 4,
        sequence_length: 512,
        mask_rate: 0.15,
        unit: MaskUnit::Tokens,
        layout: Layout::Packed,
        fit: Fit::EndToEnd,
        seed: 1,
    };
    let vocabulary = opened.tokenizer.vocabulary()?;
    let batches = MlmBatches::train(Arc::clone(&opened.train), vocabulary, options)?;
    batches.batch(0)?;
    let started = Instant::now();
    for index in 0..1000 {
        batches.batch(index)?;
    }
    say(&format!("a batch of 4 x 512 in {:.3} ms", started.elapsed().as_secs_f64()));
    Ok(())
}

fn options(text: &str, tokenizer: &str, cache: &Path) -> DatasetOptions {
    DatasetOptions {
        corpus: vec![PathBuf::from(text)],
        reading: CorpusReading::default(),
        objective: Objective::MaskedTokens,
        tokenizer: TokenizerChoice::Load(PathBuf::from(tokenizer)),
        held_out: HeldOut::Share(0.02),
        duplicates: Duplicates::Keep,
        cache: cache.to_owned(),
        shard_tokens: SHARD_TOKENS,
    }
}

/// Seconds that the crate takes for all documents, without those to read the file.
fn batches_of_the_crate(text: &str, tokenizer: &Tokenizer) -> Result<f64, Box<dyn Error>> {
    let text = read_text(text.as_ref())?;
    let documents: Vec<&str> = text.split("\n\n").collect();
    let started = Instant::now();
    for batch in documents.chunks(BATCH) {
        tokenizer.encode_batch_fast(batch.to_vec(), false).map_err(|error| error.to_string())?;
    }
    Ok(started.elapsed().as_secs_f64())
}

#[expect(clippy::print_stdout, reason = "what this example is for")]
fn say(line: &str) {
    println!("{line}");
}
